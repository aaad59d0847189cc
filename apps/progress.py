"""How a fit shows its progress: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyfield.errors import MissingDependencyError

LINE_SECONDS = 10.0


class FitProgress:
    """Receives the rows of a fit. Use as a context manager."""

    def __init__(self, tensorboard: Path | None = None):
        self._bar = None
        self._last_line = 0.0
        self._check = ""
        self._folder = tensorboard
        self._writer: Any = None
        self._new_writer = _summary_writer() if tensorboard else None

    def __enter__(self) -> FitProgress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            form = "{percentage:3.0f}%|{bar:24}| {elapsed}<{remaining} {postfix}"
            self._bar = tqdm(total=1.0, bar_format=form, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Show a metrics row or a held-out check."""
        self._write(row)
        if "loss" not in row:
            self._check = _told(row)
            return
        text = (
            f"step {row['step']}  loss {row['loss']:.5f}  {row['psnr']:.2f} dB{self._check}"
            f"  {row['rays_per_second'] / 1000:.1f}k/s"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(row["fraction"] - self._bar.n)
        elif time.monotonic() - self._last_line >= LINE_SECONDS or row["fraction"] >= 1:
            self._last_line = time.monotonic()
            eta = row["seconds"] * (1 / max(row["fraction"], 1e-6) - 1)
            print(f"{row['fraction']:4.0%}  {text}  {eta:.0f} s left", file=sys.stderr, flush=True)

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._new_writer is None:
            return
        if self._writer is None:  # the run's folder is there only once the fit has begun
            self._writer = self._new_writer(str(self._folder))
        for name, value in row.items():
            if isinstance(value, (int, float)) and name not in ("step", "fraction"):
                self._writer.add_scalar(name, value, row["step"])


def _told(check: Mapping[str, Any]) -> str:
    """What a held-out check found."""
    if "check_psnr" in check:
        return f"  {check.get('check_of', 'held-out')} {check['check_psnr']:.2f} dB"
    median = check.get("check_range_medae_m")
    return "" if median is None else f"  held-out median {100 * median:.1f} cm"


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "--tensorboard needs the package tensorboard: pip install 'polyfield[log]'"
        ) from error
    return SummaryWriter
