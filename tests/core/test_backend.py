"""The dispatcher picks an implementation and says why."""

from __future__ import annotations

import pytest

from polyfield import backend
from polyfield.backend import Implementation, implement, resolve, using
from polyfield.errors import ConfigError, MissingDependencyError, UnknownNameError


@pytest.fixture(autouse=True)
def operation(monkeypatch):
    monkeypatch.setattr(backend, "_IMPLEMENTATIONS", {})
    backend._resolve.cache_clear()
    implement(
        Implementation(
            "add", "torch", "operator:add", dtypes=("float32", "float64"), second_order=True
        )
    )
    implement(Implementation("add", "fast", "operator:sub", devices=("cpu",), priority=5))
    implement(
        Implementation("add", "absent", "operator:mul", requires=("no_such_package",), priority=9)
    )
    yield
    backend._resolve.cache_clear()


def test_the_fastest_usable_one_is_picked_and_the_reason_told():
    choice = resolve("add", device="cpu")
    assert (choice.backend, choice.function(5, 3)) == ("fast", 2)
    assert "no_such_package is not installed" in choice.reason
    assert backend.choices()["add"]["backend"] == "fast"


@pytest.mark.parametrize("case", [{"dtype": "float64"}, {"device": "cuda"}, {"second_order": True}])
def test_torch_takes_what_the_fast_one_cannot(case):
    assert resolve("add", **{"device": "cpu", **case}).backend == "torch"


def test_a_backend_can_be_forced():
    with using("torch"):
        assert resolve("add", device="cpu").backend == "torch"
    assert resolve("add", device="cpu").backend == "fast"


def test_forcing_an_absent_package_says_what_to_install():
    with (
        using("absent"),
        pytest.raises(MissingDependencyError, match="pip install no_such_package"),
    ):
        resolve("add", device="cpu")


def test_an_operation_without_the_forced_backend_uses_torch():
    with using("triton"):
        assert resolve("add", device="cpu").backend == "torch"


def test_unknown_operations_and_devices_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'add'"):
        resolve("ad", device="cpu")
    with pytest.raises(ConfigError, match="no implementation of add for tpu"):
        resolve("add", device="tpu")


def test_an_implementation_for_every_device_is_found_on_all_of_them():
    implement(Implementation("scale", "torch", "operator:mul", devices=None))
    implement(Implementation("scale", "fast", "operator:sub", devices=("cpu",), priority=5))
    assert resolve("scale", device="cpu").backend == "fast"
    for device in ("cuda", "meta", "mps", "xpu"):
        choice = resolve("scale", device=device)
        assert choice.backend == "torch" and choice.reason == f"fast: no {device} support"
    with pytest.raises(ConfigError, match="no implementation of scale for meta float16"):
        resolve("scale", device="meta", dtype="float16")


def test_operations_lists_the_fastest_first(monkeypatch):
    monkeypatch.setattr(backend, "_IMPLEMENTATIONS", {})
    for name, priority in (("torch", 0), ("quick", 10)):
        backend.implement(backend.Implementation("add", name, "operator:add", priority=priority))
    assert [i.backend for i in backend.operations()["add"]] == ["quick", "torch"]
