"""Dataclasses to plain data and back, and overrides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfield.config import field_help, from_plain, merge, parse_overrides, to_plain
from polyfield.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    """Learning rate."""
    mode: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    inner: Inner = Inner()
    flag: bool = False

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must be >= 0, got {self.rate}")


def test_plain_data_round_trips():
    config = Outer(rate=2.0, mode="b", widths=(4,), limit=3, inner=Inner(7))
    assert from_plain(Outer, to_plain(config)) == config


def test_whole_numbers_are_taken_as_floats_but_not_the_reverse():
    assert from_plain(Outer, {"rate": 1}).rate == 1.0
    with pytest.raises(ConfigError, match=r"Outer\.limit must be int, got 1\.5"):
        from_plain(Outer, {"limit": 1.5})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rat": 1}, "did you mean 'rate'"),
        ({"mode": "c"}, "unknown value of Outer.mode"),
        ({"widths": [1, "x"]}, r"Outer.widths\[1\] must be int"),
        ({"pair": [1.0]}, "takes 2 values, got 1"),
        ({"flag": 1}, "Outer.flag must be bool"),
        ({"limit": True}, "Outer.limit must be int"),
        ({"inner": {"dept": 1}}, "did you mean 'depth'"),
        ({"rate": -1.0}, "rate must be >= 0"),
    ],
)
def test_bad_settings_name_the_setting_and_the_expectation(data, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(Outer, data)


def test_unknown_setting_is_an_unknown_name():
    with pytest.raises(UnknownNameError):
        from_plain(Outer, {"modes": "a"})


def test_overrides_nest_and_read_json_values():
    parsed = parse_overrides(
        ["fit.rays=64", "fit.lr=5e-3", "backbone.type=mlp", "a.b.c=[1, 2]", "x=null"]
    )
    assert parsed == {
        "fit": {"rays": 64, "lr": 5e-3}, "backbone": {"type": "mlp"},
        "a": {"b": {"c": [1, 2]}}, "x": None,
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["rays", "=3", "fit.=3", ".x=1"])
def test_overrides_without_key_or_value_are_refused(pair):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides([pair])


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="finite"):
        parse_overrides(["fit.lr=NaN"])


def test_a_layer_with_another_type_replaces_the_spec():
    base = {"backbone": {"type": "a", "width": 3}, "fit": {"lr": 1}}
    assert merge(base, {"backbone": {"type": "b"}}) == {"backbone": {"type": "b"}, "fit": {"lr": 1}}
    assert merge(base, {"backbone": {"width": 4}})["backbone"] == {"type": "a", "width": 4}


nested = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("pqrs"), inner, max_size=3),
    max_leaves=8,
)
layers = st.dictionaries(st.sampled_from("pqrs"), nested, max_size=3)


@given(layers)
def test_merging_a_layer_twice_changes_nothing(layer):
    assert merge(merge({}, layer), layer) == merge({}, layer)


@given(layers, layers)
def test_merge_leaves_its_arguments_alone(a, b):
    before = repr((a, b))
    merge(a, b)
    assert repr((a, b)) == before


def test_help_is_the_docstring_under_a_field():
    assert field_help(Outer) == {"rate": "Learning rate."}
