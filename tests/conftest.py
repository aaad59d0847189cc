"""Shared by all tests: where device-neutral tests run, and where optional real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Tests state claims about values; how busy the machine is is none of them.
settings.register_profile("values", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("values")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device asked for with ``./test --device``; absent hardware is an error, not a skip."""
    return torch.device(os.environ.get("POLYFIELD_TEST_DEVICE", "cpu"))


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real captures, or skip."""
    folder = Path(os.environ.get("POLYFIELD_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set POLYFIELD_DATA to a folder with lego/ and fox/")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never touch the user's image cache."""
    os.environ["POLYFIELD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
