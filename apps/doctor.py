"""What is installed, what works, and the exact command that mends what does not."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from typing import Any

Row = dict[str, Any]
REQUIRED = (
    "torch",
    "numpy",
    "numba",
    "imageio",
    "pillow",
    "safetensors",
    "jaxtyping",
    "click",
    "tqdm",
    "trimesh",
)
OPTIONAL = {  # module -> (distribution, what for, how to get it)
    "open3d": ("open3d", "meshes and point clouds", "pip install 'polyfield[mesh]'"),
    "nibabel": ("nibabel", "NIfTI volumes", "pip install 'polyfield[nifti]'"),
    "gradio": ("gradio", "the viewer", "pip install 'polyfield[view]'"),
    "nerfacc": ("nerfacc", "sampling on CUDA", "pip install 'polyfield[cuda]'"),
    "lpips": ("lpips", "the LPIPS metric", "pip install 'polyfield[metrics]'"),
    "tensorboard": ("tensorboard", "--tensorboard", "pip install 'polyfield[log]'"),
    "triton": ("triton", "kernels on CUDA", "arrives with CUDA builds of torch"),
    "tinycudann": ("tinycudann", "an alternative on CUDA", "never needed; builds from source only"),
}
IMPORT_SECONDS = 120


def examine() -> list[Row]:
    """Rows ``{component, status, version, fix}``; status is ok, missing, optional or broken."""
    rows = [_row("python", "ok", platform.python_version())]
    rows += [_required(name) for name in REQUIRED]
    rows += [_ffmpeg(), _kernels(), _cuda()]
    rows += [_optional(module, *facts) for module, facts in OPTIONAL.items()]
    return [*rows, _lpips_weights(), _cache(), _processors()]


def _row(component: str, status: str, version: str | None = None, fix: str | None = None) -> Row:
    return {"component": component, "status": status, "version": version, "fix": fix}


def _required(name: str) -> Row:
    try:
        return _row(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return _row(name, "missing", None, f"pip install {name}")


def _optional(module: str, distribution: str, purpose: str, fix: str) -> Row:
    if importlib.util.find_spec(module) is None:
        return _row(module, "optional", None, f"for {purpose}: {fix}")
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        version = None
    problem = _import_problem(module)
    if problem is None:
        return _row(module, "ok", version)
    if module == "open3d" and ("libusb" in problem or "libGL" in problem or "libX11" in problem):
        return _row(module, "broken", version, "apt-get install libusb-1.0-0 libgl1 libx11-6")
    return _row(
        module, "broken", version, f"{problem}; reinstall it, or uninstall it to silence this"
    )


def _import_problem(module: str) -> str | None:
    """Import in another process: a broken native library must not take this one down."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"import takes more than {IMPORT_SECONDS} s"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit {done.returncode}")


def _ffmpeg() -> Row:
    try:
        import imageio_ffmpeg

        return _row("ffmpeg", "ok", imageio_ffmpeg.get_ffmpeg_version())
    except ImportError:
        return _row("ffmpeg", "missing", None, "pip install imageio-ffmpeg")
    except RuntimeError as error:
        fix = "apt-get install ffmpeg, or set IMAGEIO_FFMPEG_EXE to a working ffmpeg"
        return _row("ffmpeg", "broken", None, f"{error}; {fix}")


def _kernels() -> Row:
    """Compiled CPU kernels need numba and its native library."""
    try:
        import numba
    except ImportError as error:
        return _row(
            "cpu kernels", "broken", None, f"numba does not import ({error}); pip install -U numba"
        )
    return _row("cpu kernels", "ok", f"numba {numba.__version__}")


def _cuda() -> Row:
    try:
        import torch
    except (ImportError, OSError) as error:
        return _row("cuda", "broken", None, f"torch does not import ({error}); reinstall torch")
    if torch.cuda.is_available():
        return _row("cuda", "ok", f"{torch.version.cuda} ({torch.cuda.get_device_name(0)})")
    if torch.version.cuda is None:
        fix = "this torch is a CPU build; for a GPU install a CUDA build of torch"
    else:
        fix = "torch has CUDA but sees no GPU; check the driver with nvidia-smi"
    return _row("cuda", "optional", None, fix)


def _lpips_weights() -> Row:
    from polyfield.errors import MissingDependencyError

    try:
        from polyfield.training.metrics import Lpips

        return _row("lpips weights", "ok", Lpips().name)
    except (MissingDependencyError, ImportError, OSError) as error:
        return _row("lpips weights", "optional", None, str(error))


def _cache() -> Row:
    try:
        from polyfield.data.images import cache_folder
    except (ImportError, OSError) as error:
        return _row("image cache", "broken", None, f"{error}; mend the rows above first")
    folder = existing = cache_folder()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free >> 30
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError:
        fix = f"{existing} cannot be written: set POLYFIELD_CACHE to a folder that can"
        return _row("image cache", "broken", f"{free} GB free", fix)
    return _row("image cache", "ok", f"{free} GB free", str(folder))


def _processors() -> Row:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return _row("cpu threads", "ok", str(count), platform.processor() or platform.machine())
