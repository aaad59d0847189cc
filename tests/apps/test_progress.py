"""Progress shown to people, and the optional TensorBoard writer."""

from __future__ import annotations

import sys

import pytest

from polyfield.apps.progress import FitProgress
from polyfield.errors import MissingDependencyError

ROW = {"step": 25, "loss": 0.0123, "psnr": 19.1, "rays_per_second": 12345.0, "fraction": 0.5,
       "seconds": 30.0, "rays": 512, "samples": 1000, "lr": 0.01}  # fmt: skip


def test_lines_have_loss_psnr_speed_and_time_left(capsys):
    with FitProgress() as progress:
        progress({"step": 20, "check_view": "v", "check_psnr": 18.5, "fraction": 0.4})
        progress(ROW)
    line = capsys.readouterr().err
    for part in (
        "step 25",
        "loss 0.01230",
        "19.10 dB",
        "held-out 18.50 dB",
        "12.3k/s",
        "30 s left",
    ):
        assert part in line


def test_lines_come_now_and_then_and_at_the_end(capsys):
    with FitProgress() as progress:
        for fraction in (0.5, 0.6, 0.7, 1.0):
            progress({**ROW, "fraction": fraction})
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_tensorboard_absent_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"polyfield\[log\]"):
        FitProgress(tmp_path)
