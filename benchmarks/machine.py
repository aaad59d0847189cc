"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("polyfield", "torch", "numpy", "numba", "llvmlite")


def machine() -> dict[str, Any]:
    """Processor, memory, versions and commit; the load says how busy the machine was before."""
    import torch

    return {
        "processor": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": _memory_gb(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "waiting_threads": os.environ.get("OMP_WAIT_POLICY"),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def _line(path: str, name: str) -> str | None:
    """The value of ``name: value`` in a file of the Linux kernel."""
    file = Path(path)
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith(name)), None)


def _memory_gb() -> float | None:
    total = _line("/proc/meminfo", "MemTotal")
    return None if total is None else round(int(total.split()[0]) / 2**20, 1)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _commit() -> str | None:
    """Commit of the checkout that this file is in; ``+`` says that files differ from it."""
    folder = Path(__file__).resolve().parent
    git = ("git", "-C", str(folder))
    try:
        options = {"capture_output": True, "text": True, "check": True}
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **options).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed.strip() else "")
