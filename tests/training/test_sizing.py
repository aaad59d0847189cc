"""A number of parameters that a backbone's sizes are chosen for, and the clock of a budget."""

from __future__ import annotations

import time

import pytest

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.registry import lookup, names
from polyfield.training.fit import fit, resume
from polyfield.training.model import Model
from polyfield.training.settings import resolve, resolve_signal
from polyfield.training.sizing import final_parameters, scaled, within


def radiance(name, **backbone):
    return resolve({"backbone": {"type": name, **backbone}})


@pytest.mark.parametrize("name", names("backbones"))
def test_every_backbone_says_what_makes_it_smaller(name):
    size, settings = lookup("backbones", name).traits["size"], radiance(name)
    assert scaled(settings, size, 1.0) == settings
    half = scaled(settings, size, 0.5)
    assert {key for key in half if half[key] != settings[key]} == {"backbone"}


@pytest.mark.parametrize("name", ["mlp", "hash-grid", "cam", "vm", "functional-tensor"])
def test_the_largest_that_keeps_within_is_found(name):
    made = within(radiance(name), "none", 60_000)
    assert 0.5 * 60_000 < final_parameters(made, "none", 10**9) <= 60_000


def test_the_next_width_would_be_too_large():
    made = within(radiance("mlp"), "none", 60_000)
    larger = radiance("mlp", width=made["backbone"]["width"] + 1)
    assert final_parameters(larger, "none", 10**9) > 60_000


def test_growing_fields_are_counted_at_their_final_size():
    made = within(radiance("dense-grid"), "none", 100_000)
    model = Model(made, "none")
    start = model.parameter_count
    model.field.grow(Progress(step=0, fraction=1.0, mse=None, occupied=None))
    assert start < model.parameter_count <= 100_000


def test_signals_are_sized_with_their_own_heads():
    settings = resolve_signal({"backbone": {"type": "siren"}}, "image", 2, 3)
    made = within(settings, "none", 20_000)
    assert 19_000 < Model(made, "none").parameter_count <= 20_000


def test_what_cannot_be_built_at_any_size_says_why():
    settings = resolve_signal({"backbone": {"type": "vm"}}, "image", 2, 3)
    with pytest.raises(ConfigError, match="coordinates of 3 dimensions"):
        within(settings, "none", 10_000)


def test_too_few_parameters_are_refused():
    with pytest.raises(ConfigError, match=r"at least [\d,]+ parameters"):
        within(radiance("hash-grid"), "none", 100)


def test_fields_that_are_pruned_are_counted_at_their_final_size():
    settings = resolve_signal({"backbone": {"type": "s-kan"}}, "image", 2, 3)
    made = within(settings, "none", 30_000)
    assert 15_000 < final_parameters(made, "none", 30_000) <= 30_000
    assert Model(made, "none").parameter_count > 30_000


@pytest.mark.parametrize("name", ["dense-grid", "mlp-kan"])
def test_sizes_that_a_backbone_refuses_are_not_chosen(name):
    settings = resolve_signal({"backbone": {"type": name}}, "shape", 3, 1)
    with pytest.raises(ConfigError, match=r"at least [\d,]+ parameters"):
        within(settings, "none", 10)
    made = within(settings, "none", 6000)
    assert Model(made, "none").parameter_count <= 6000


def test_processor_time_does_not_count_waiting(tmp_path, monkeypatch):
    """What every step sleeps is no training time."""
    import polyfield.training.fit as module

    taken = module.train_step

    def slow(*arguments):
        time.sleep(0.4)
        return taken(*arguments)

    monkeypatch.setattr(module, "train_step", slow)
    settings = {"backbone": {"type": "mlp", "width": 8, "depth": 1}, "fit": {"checks": 0}}
    settings["data"] = {"downscale": 8}
    seconds = {}
    for clock in ("wall", "processor"):
        settings["fit"] = {"checks": 0, "clock": clock, "rays": 64}
        result = fit("sample:orrery", tmp_path / clock, steps=5, settings=settings, device="cpu")
        seconds[clock] = result.seconds
    assert seconds["wall"] > 2 and seconds["processor"] < seconds["wall"] - 1


def test_max_parameters_is_what_the_run_gets(tmp_path):
    settings = {"backbone": {"type": "siren"}, "data": {"downscale": 8}, "fit": {"checks": 0}}
    result = fit("sample:orrery", tmp_path / "run", steps=1, settings=settings, max_parameters=9000)
    assert 7000 < result.parameters <= 9000


def test_the_clock_of_a_run_cannot_change(tmp_path):
    settings = {"backbone": {"type": "siren", "width": 8}, "data": {"downscale": 8},
                "fit": {"checks": 0, "rays": 64}}  # fmt: skip
    fit("sample:orrery", tmp_path / "run", steps=1, settings=settings)
    with pytest.raises(ConfigError, match="clock cannot change"):
        resume(tmp_path / "run", steps=2, settings={"fit": {"clock": "processor"}})
