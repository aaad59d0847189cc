"""MLP-KAN: points go to experts of two kinds."""

from __future__ import annotations

import math

import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.fields.backbones.mlp_kan import (
    MixtureBlock,
    MLPExpert,
    MLPKANBackbone,
    MLPKANConfig,
    balance_penalty,
    gate_weights,
    kan_expert,
    scattered_points,
)
from polyfield.registry import build


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(in_dim=2, seed=0, **settings):
    settings = {"width": 8, "hidden": 8, "experts": 4, **settings}
    return MLPKANBackbone(MLPKANConfig(**settings), in_dim, seeded(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64) * 2 - 1


class TestSizes:
    def test_experts_and_block_of_the_paper(self):
        d = h = 64
        assert count(MLPExpert(d, h, "silu", seeded())) == 2 * d * h + h + d == 8_320
        assert count(kan_expert(d, h, seeded())) == 8 * d * h + 2 * d + h == 32_960
        block = MixtureBlock(MLPKANConfig(), d, seeded())
        assert count(block) - count(block.norm) == 165_632

    @pytest.mark.parametrize("kans", [0, 1, 4])
    def test_any_mixture_of_kinds(self, kans):
        block = make(kan_experts=kans).blocks[0]
        assert sum(isinstance(e, MLPExpert) for e in block.experts) == 4 - kans
        assert len(block.experts) == 4


class TestGate:
    def test_weights_sum_to_one_and_keep_the_largest(self):
        logits = uniform(50, 6) * 3
        soft = gate_weights(logits)
        for k in range(1, 7):
            p = gate_weights(logits, k)
            torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64))
            assert ((p > 0).sum(1) == k).all()
            left_out = soft.masked_fill(p > 0, 0).amax(1)
            assert (left_out <= soft.masked_fill(p == 0, 1).amin(1)).all()
        torch.testing.assert_close(gate_weights(logits, 6), soft)
        assert gate_weights(logits, 1).amax(1).eq(1).all()

    def test_is_computed_in_single_precision_at_least(self):
        assert gate_weights(torch.zeros(3, 4, dtype=torch.float16)).dtype == torch.float32

    def test_without_preferences_the_mixture_is_even(self):
        assert torch.equal(gate_weights(torch.zeros(5, 4)), torch.full((5, 4), 0.25))


class TestBlock:
    def block(self, top_k):
        torch.manual_seed(0)
        return MixtureBlock(MLPKANConfig(width=8, hidden=6, experts=4, top_k=top_k), 5).double()

    def test_all_of_the_experts_is_the_dense_mixture(self):
        dense, x, seen = self.block(None), uniform(30, 8), uniform(30, 5, seed=2)
        p = dense.gate(seen).softmax(-1)
        expected = x.clone()
        for e, expert in enumerate(dense.experts):
            expected = expected + p[:, e : e + 1] * expert(dense.norm(x))
        torch.testing.assert_close(dense(x, seen), expected)
        every = self.block(4)
        every.load_state_dict(dense.state_dict())
        torch.testing.assert_close(every(x, seen), expected)

    @pytest.mark.parametrize("top_k", [1, 2, 3])
    def test_some_of_the_experts_are_what_masked_weights_say(self, top_k):
        block, x, seen = self.block(top_k), uniform(30, 8), uniform(30, 5, seed=2)
        p = gate_weights(block.gate(seen), top_k)
        expected = x.clone()
        for e, expert in enumerate(block.experts):
            expected = expected + p[:, e : e + 1] * expert(block.norm(x))
        torch.testing.assert_close(block(x, seen), expected)

    def test_equal_experts_are_one_expert_whatever_the_gate(self):
        x, seen = uniform(20, 8), uniform(20, 5, seed=2)
        config = MLPKANConfig(width=8, hidden=6, experts=3, kan_experts=3, top_k=2)
        block = MixtureBlock(config, 5, seeded()).double()
        for expert in block.experts[1:]:
            expert.load_state_dict(block.experts[0].state_dict())
        torch.testing.assert_close(block(x, seen), x + block.experts[0](block.norm(x)))

    def test_experts_that_are_not_chosen_get_no_gradient(self):
        block, x, seen = self.block(2), uniform(1, 8), uniform(1, 5, seed=2)
        chosen = set(gate_weights(block.gate(seen), 2)[0].nonzero()[:, 0].tolist())
        block(x, seen).square().sum().backward()
        for e, expert in enumerate(block.experts):
            got = any(p.grad is not None and bool(p.grad.any()) for p in expert.parameters())
            assert got == (e in chosen)
        assert bool(block.gate.weight.grad.any())


class TestIndependence:
    @pytest.mark.parametrize("top_k", [None, 1, 2])
    def test_a_point_does_not_depend_on_its_batch(self, top_k):
        backbone, x = make(top_k=top_k).double(), uniform(60, 2)
        whole = backbone(x)
        order = torch.randperm(60, generator=seeded())
        torch.testing.assert_close(backbone(x[order]), whole[order], rtol=1e-12, atol=1e-12)
        for i in (0, 17, 59):
            torch.testing.assert_close(backbone(x[i]), whole[i], rtol=1e-12, atol=1e-12)

    def test_the_gate_of_the_papers_text_would_depend_on_it(self):
        """Why it is left out: slots mix the points of a batch."""
        slots = uniform(4, 8, seed=3)

        def soft_slots(x):
            logits = x @ slots.T
            filled = logits.softmax(0).T @ x
            return logits.softmax(1) @ filled.tanh()

        x = uniform(30, 8)
        assert (soft_slots(x)[:1] - soft_slots(x[:1])).abs().max() > 0.01


class TestBalance:
    def test_penalty_is_one_if_even_and_the_number_of_experts_if_not(self):
        even = torch.full((100, 4), 0.01, dtype=torch.float64)
        even[torch.arange(100), torch.arange(100) % 4] = 0.97
        assert float(balance_penalty(even)) == pytest.approx(1)
        one = torch.tensor([[1.0, 0, 0, 0]]).repeat(10, 1)
        assert float(balance_penalty(one)) == pytest.approx(4)
        pairs = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
        assert float(balance_penalty(pairs, 2)) == pytest.approx(1)

    def test_a_step_down_the_penalty_spreads_the_load(self):
        backbone = make(balance=1.0, blocks=1, top_k=1)
        gate = backbone.blocks[0].gate.weight
        with torch.no_grad():
            gate[0] += 0.5
        before = backbone.regularisation()["balance"]
        (slope,) = torch.autograd.grad(before, gate)
        with torch.no_grad():
            gate -= 0.5 * slope
        assert float(backbone.regularisation()["balance"].detach()) < float(before.detach())

    def test_is_left_out_without_weight(self):
        assert make(balance=0.0).regularisation() == {}

    @pytest.mark.parametrize("dims", [1, 2, 3, 6])
    def test_probes_cover_the_box(self, dims):
        x = scattered_points(512, dims)
        assert x.abs().max() < 1 and x.mean(0).abs().max() < 0.02
        octants = (x[:, : min(dims, 3)] > 0).long() @ (2 ** torch.arange(min(dims, 3)))
        shares = octants.bincount() / 512 * 2 ** min(dims, 3)
        assert shares.min() > 0.8 and shares.max() < 1.2


def test_gates_can_be_looked_at():
    found = make(blocks=2, top_k=2).gates(uniform(9, 2).float())
    assert found.shape == (2, 9, 4)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 9))


def test_learns_a_bump_beside_a_checkerboard():
    backbone = make(
        width=32, hidden=32, blocks=1, top_k=None, encoding={"type": "frequency", "levels": 4}
    )
    head = backbone.make_head(1, seeded(1))
    axis = torch.linspace(-1, 1, 48)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    bump = (-8 * ((x + 0.5) ** 2 + y**2)).exp()
    checks = (math.pi * 4 * x).sin().sign() * (math.pi * 4 * y).sin().sign() / 2 + 0.5
    values = torch.where(x < 0, bump, checks).reshape(-1, 1)
    points = torch.stack([x, y], -1).reshape(-1, 2)
    optimiser = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 5e-3)
    for _ in range(150):
        batch = torch.randint(len(points), (512,), generator=seeded(_))
        loss = (head(backbone(points[batch])) - values[batch]).square().mean()
        optimiser.zero_grad()
        (loss + backbone.regularisation()["balance"]).backward()
        optimiser.step()
    error = (head(backbone(points)) - values).square().mean().detach()
    assert -10 * math.log10(float(error)) > 18
    assert float(backbone.regularisation()["balance"].detach()) < 2e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "at least 1"),
        ({"hidden": 1}, "at least 2"),
        ({"kan_experts": 9}, "kan_experts"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 9}, "top_k"),
        ({"balance": -1.0}, "balance"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("backbones", {"type": "mlp-kan", **settings}, in_dim=2)
