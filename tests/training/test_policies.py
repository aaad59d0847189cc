"""Schedules and adaptation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from polyfield.encodings.base import Cells
from polyfield.errors import ConfigError
from polyfield.training.model import Model
from polyfield.training.policies import (
    CentreCrop,
    FollowField,
    GrowField,
    HoldSamples,
    LearningRate,
)
from polyfield.training.settings import FitConfig, resolve
from polyfield.training.state import FitState, make_optimiser


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


class Growing(torch.nn.Module):
    """A field that replaces one of its parameters half way through, and keeps the other."""

    def __init__(self):
        super().__init__()
        self.kept = torch.nn.Parameter(torch.ones(2))
        self.grown, self.seen = torch.nn.Parameter(torch.ones(3)), []

    def grow(self, progress):
        self.seen.append(progress)
        if progress.fraction >= 0.5 and len(self.grown) == 3:
            self.grown = torch.nn.Parameter(torch.zeros(7))
            return True
        return False

    def parameter_groups(self, lr):
        return [{"params": list(self.parameters()), "lr": lr}]


def test_fields_grow_before_the_step_and_what_stays_keeps_its_moments():
    field = Growing()
    cells = Cells(torch.zeros(1, 3), 0.5)
    model = Model(resolve({}, preset="tiny"), "none")
    model.field = field
    model.sampler.occupied_cells = lambda: cells
    config = FitConfig(steps=10, lr=0.1)
    s = state(config, model=model, optimiser=make_optimiser(model, config))
    (field.kept.sum() + field.grown.sum()).backward()
    s.optimiser.step()
    moment = s.optimiser.state[field.kept]
    s.last, s.step = {"mse": 0.25}, 4
    GrowField().before_step(s)
    assert s.optimiser.state[field.kept] is moment
    s.step = 5
    GrowField().before_step(s)
    assert [(p.step, p.fraction, p.mse) for p in field.seen] == [(4, 0.4, 0.25), (5, 0.5, 0.25)]
    assert field.seen[0].occupied() is cells
    assert s.optimiser.state[field.kept] is moment and field.grown not in s.optimiser.state
    held = [p for group in s.optimiser.param_groups for p in group["params"]]
    assert any(p is field.grown for p in held)
    assert s.optimiser.param_groups[0]["base_lr"] == 0.1


def test_the_sampler_is_told_how_far_the_fit_is():
    told = []
    sampler = SimpleNamespace(schedule=told.append, update=lambda *_: told.append("update"))
    s = state(FitConfig(steps=8), step=2, model=SimpleNamespace(sampler=sampler, field=None))
    s.generator = None
    FollowField().before_step(s)
    assert told == [0.25, "update"]
