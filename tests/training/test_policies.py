"""Schedules and adaptation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from polyfield.errors import ConfigError
from polyfield.training.policies import CentreCrop, HoldSamples, LearningRate
from polyfield.training.settings import FitConfig
from polyfield.training.state import FitState


def state(config: FitConfig, step: int = 0, **values) -> FitState:
    """A state without a model: policies of the schedule only look at the plain parts."""
    made = FitState.__new__(FitState)
    groups = [{"base_lr": 2.0, "lr": 0.0}, {"base_lr": 0.5, "lr": 0.0}]
    made.optimiser = SimpleNamespace(param_groups=groups)
    made.config, made.step, made.seconds, made.rays = config, step, 0.0, config.rays
    made.crop, made.last, made.max_rays = 1.0, {}, config.max_rays
    made.model = SimpleNamespace(sampler=object())
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 1.0), (0.5, 0.1**0.5), (1.0, 0.1), (2.0, 0.1)]
)
def test_rate_decays_exponentially_to_its_final_factor(fraction, expected):
    assert LearningRate.factor(FitConfig(lr_final=0.1), 10**6, fraction) == pytest.approx(expected)


def test_rate_holds_before_it_decays():
    config = FitConfig(lr_final=0.01, lr_hold=0.5)
    assert LearningRate.factor(config, 0, 0.49) == 1.0
    assert LearningRate.factor(config, 0, 0.75) == pytest.approx(0.1)


def test_warm_up_is_linear():
    config = FitConfig(warmup=100)
    factors = [LearningRate.factor(config, step, 0.0) for step in (0, 50, 100, 150)]
    assert factors == pytest.approx([0.01, 0.505, 1.0, 1.0])


def test_every_group_keeps_its_own_base_rate():
    s = state(FitConfig(steps=10, lr_final=0.1), step=10)
    LearningRate().before_step(s)
    assert [g["lr"] for g in s.optimiser.param_groups] == pytest.approx([0.2, 0.05])


@pytest.mark.parametrize("bad", [{"lr_final": 0.0}, {"lr_final": 2.0}, {"lr_hold": 1.0}])
def test_impossible_schedules_are_refused_before_the_first_step(bad):
    with pytest.raises(ConfigError, match="lr_"):
        LearningRate().check(state(FitConfig(**bad)))


def test_crop_ends_at_its_step():
    config = FitConfig(crop_steps=3)
    crops = []
    for step in range(5):
        s = state(config, step=step)
        CentreCrop().before_step(s)
        crops.append(s.crop)
    assert crops == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_held_samples_converge_to_the_target():
    s = state(FitConfig(rays=1024, target_samples=100_000, max_rays=10**6))
    for _ in range(10):
        s.last = {"samples": s.rays * 17.0}
        HoldSamples().after_step(s)
    assert s.rays * 17 == pytest.approx(100_000, rel=0.05)


@pytest.mark.parametrize(("samples", "expected"), [(0, 2048), (10**9, 512), (100_000, 1024)])
def test_rays_move_by_at_most_a_factor_of_two(samples, expected):
    s = state(FitConfig(rays=1024, target_samples=100_000), last={"samples": samples})
    HoldSamples().after_step(s)
    assert s.rays == expected


def test_rays_stay_within_their_bounds():
    s = state(FitConfig(rays=4096, max_rays=5000, target_samples=10**9), last={"samples": 1})
    HoldSamples().after_step(s)
    assert s.rays == 5000


@pytest.mark.parametrize(("fraction", "samples"), [(0.0, 1000), (0.5, 4000), (1.0, 16000)])
def test_the_samples_of_a_step_grow_exponentially(fraction, samples):
    config = FitConfig(target_samples=1000, target_samples_final=16000)
    assert HoldSamples.target(config, fraction) == samples
    s = state(config, rays=2048, seconds=0.0, last={"samples": 2048})
    s.config = replace(config, steps=100)
    s.step = round(100 * fraction)
    HoldSamples().after_step(s)
    assert s.rays == round(min(4096, max(1024, samples)) / 256) * 256


def test_steps_never_shrink_below_what_they_began_with():
    config = FitConfig(target_samples=200_000, target_samples_final=32_768)
    assert [HoldSamples.target(config, f) for f in (0.0, 0.5, 1.0)] == [200_000] * 3


def test_without_a_target_rays_stay():
    s = state(FitConfig(rays=4096), last={"samples": 1})
    HoldSamples().after_step(s)
    assert s.rays == 4096


def test_a_renderer_without_samples_keeps_its_rays():
    s = state(FitConfig(rays=1024, target_samples=10**6), last={"samples": 0})
    s.model = SimpleNamespace(sampler=None)
    HoldSamples().after_step(s)
    assert s.rays == 1024


def test_rays_never_exceed_what_memory_allowed():
    s = state(FitConfig(rays=1024, target_samples=10**6), last={"samples": 1024}, max_rays=512)
    HoldSamples().after_step(s)
    assert s.rays == 512
