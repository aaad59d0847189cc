"""Hold-out specifications."""

from __future__ import annotations

import pytest

from polyfield.data.splits import held_out
from polyfield.errors import ConfigError


@pytest.mark.parametrize(
    ("spec", "count", "kept"),
    [
        ("2", 5, (2,)),
        ("0", 5, (0,)),
        ("7,2", 9, (2, 7)),
        ("2, 7, 2", 9, (2, 7)),
        ("every:8", 20, (0, 8, 16)),
        ("every:3", 3, (0,)),
        ("0.1", 20, (5, 15)),
        ("0.5", 4, (1, 3)),
        (".25", 8, (2, 6)),
        ("0.01", 10, (5,)),
    ],
)
def test_spec_keeps_these(spec, count, kept):
    assert held_out(spec, count) == kept


@pytest.mark.parametrize(
    "spec", ["", "abc", "-1", "1.0", "0.0", "every:", "every:0", "2;3", "every:-2", "1,", "nan"]
)
def test_unreadable_specs_name_what_is_expected(spec):
    with pytest.raises(ConfigError, match="every:8"):
        held_out(spec, 10)


def test_specs_that_do_not_fit_the_scene_are_refused():
    with pytest.raises(ConfigError, match="12.*there are 10"):
        held_out("12", 10)
    with pytest.raises(ConfigError, match="leaves none"):
        held_out("every:1", 10)
    with pytest.raises(ConfigError, match="leaves none"):
        held_out("0", 1)
