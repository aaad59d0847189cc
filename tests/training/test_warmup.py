"""Getting ready before the clock starts."""

from __future__ import annotations

import logging

import torch

from polyfield.data.load import load_scene
from polyfield.data.scene import LoadOptions
from polyfield.training import warmup
from polyfield.training.images import ImagesTask
from polyfield.training.model import Model
from polyfield.training.settings import FitConfig, resolve
from polyfield.training.state import FitState, make_generators, make_optimiser

SMALL = {
    "data": {"downscale": 8},
    "backbone": {"levels": 2, "log2_entries": 8},
    "sampler": {"resolution": 8, "steps": 32},
}


def prepared():
    scene = load_scene("sample:orrery", LoadOptions(downscale=8))
    host, generator = make_generators(3, torch.device("cpu"))
    model = Model(resolve(SMALL), "none", host).train()
    config = FitConfig(steps=4, rays=32)
    state = FitState(model, make_optimiser(model, config), config, host, generator, rays=32)
    return state, ImagesTask(scene, "sample:orrery")


def test_nothing_of_the_state_changes():
    state, task = prepared()
    before = {n: v.clone() for n, v in state.model.state_dict().items()}
    numbers = state.host.get_state(), state.generator.get_state()
    assert warmup.get_ready(state, task) > 0
    after = state.model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in state.model.parameters())
    assert not state.optimiser.state and state.step == 0 and state.rays == 32
    assert torch.equal(numbers[0], state.host.get_state())
    assert torch.equal(numbers[1], state.generator.get_state())


def test_the_user_is_told_only_when_it_takes_long(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "polyfield")
    state, task = prepared()
    warmup.get_ready(state, task)  # compiles, or loads what was compiled
    caplog.clear()
    monkeypatch.setattr(warmup, "PATIENCE", 60.0)
    warmup.get_ready(state, task)
    assert not caplog.records
    monkeypatch.setattr(warmup, "PATIENCE", 0.0)
    warmup.get_ready(state, task)
    assert [r.message for r in caplog.records if "compiled" in r.message]


def test_a_trial_that_finds_no_memory_is_left_out(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "polyfield")
    state, task = prepared()

    def full(*_):
        raise MemoryError("all gone")

    monkeypatch.setattr(warmup, "forward_backward", full)
    warmup.get_ready(state, task)
    assert [r.message for r in caplog.records] == ["no memory for a trial step (all gone)"]
