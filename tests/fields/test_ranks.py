"""Ranks that grow (SlimmeRF): schedules, masks, cuts."""

from __future__ import annotations

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.ranks import (
    EPS,
    Ranks,
    RankSchedule,
    first_components,
    rank_mask,
    scheduled_rank,
)
from polyfield.registry import build


def at(fraction=0.0, step=0, mse=None):
    return Progress(step, fraction, mse)


class TestSchedule:
    def test_components_come_evenly_over_the_share_and_all_by_its_end(self):
        ranks = [scheduled_rank(i / 64, 16, 0.5) for i in range(65)]
        assert ranks[0] == 1 and ranks[32:] == [16] * 33
        assert [ranks.count(r) for r in range(1, 16)] == [2] * 15

    def test_without_a_schedule_all_are_active_from_the_start(self):
        ranks = Ranks(RankSchedule(), 5)
        assert ranks.active == 5 and ranks.mask(10, torch.zeros(1)) is None

    def test_the_fixed_schedule_never_goes_back(self):
        ranks = Ranks(RankSchedule("fixed"), 8)
        for fraction in (0.3, 0.1):
            ranks.advance(at(fraction))
        assert ranks.active == 5

    def test_a_jump_of_the_error_activates_one_whether_up_or_down(self):
        ranks = Ranks(RankSchedule("jump", jump=0.4), 4)
        seen = []
        for step, mse in enumerate([None, 0.1, 0.1, 0.15, 0.12, 0.08]):
            ranks.advance(at(step=step, mse=mse))
            seen.append(ranks.active)
        # |0.15 - 0.12| / 0.12 = 0.25 is no jump; |0.1 - 0.15| / 0.15 = 0.33 neither
        assert seen == [1, 1, 1, 1, 1, 2]

    def test_jumps_within_the_gap_count_for_nothing(self):
        ranks = Ranks(RankSchedule("jump", jump=0.1, gap=3), 9)
        seen = []
        for step in range(10):
            ranks.advance(at(step=step, mse=2.0 ** -(step % 2)))
            seen.append(ranks.active)
        assert seen == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]

    def test_the_state_goes_on_after_a_restart(self):
        a, b = (Ranks(RankSchedule("jump", jump=0.1, gap=2), 9) for _ in range(2))
        for step in range(6):
            a.advance(at(step=step, mse=2.0 ** -(step % 2)))
        b.resize(a.sizes())
        for ranks in (a, b):
            ranks.advance(at(step=9, mse=0.01))
        assert a.sizes() == b.sizes() and b.active == 3

    @pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.1}, {"jump": 0.0}, {"gap": -1}])
    def test_unusable_settings_get_a_sentence(self, wrong):
        with pytest.raises(ValueError, match=f"rank_{next(iter(wrong))} must"):
            RankSchedule("fixed", **wrong)


class TestComponents:
    def test_factors_of_other_sizes_take_their_share(self):
        ranks = Ranks(RankSchedule("fixed"), 16)
        assert [ranks.share(48, r) for r in (1, 2, 16)] == [3, 6, 48]
        # fewer slices than components: the first ones come first, none is left out
        assert [ranks.share(4, r) for r in (1, 4, 5, 16)] == [1, 1, 2, 4]

    def test_mask_is_one_then_a_power_of_eps(self):
        mask = rank_mask(2, torch.zeros(1, dtype=torch.float64), 4, power=2)
        assert mask.dtype == torch.float64 and mask.tolist() == [1, 1, EPS**2, EPS**2]

    def test_blocks_are_cut_one_by_one(self):
        values = torch.arange(12.0).reshape(1, 12)
        assert first_components(values, 4, 2, blocks=3).tolist() == [[0, 1, 4, 5, 8, 9]]
        assert first_components(values.T, 4, 1, dim=0, blocks=3).flatten().tolist() == [0, 4, 8]

    def test_keeping_more_than_there_are_is_refused(self):
        ranks = Ranks(RankSchedule(), 4)
        ranks.keep(2)
        for rank in (0, 3):
            with pytest.raises(ConfigError, match=r"rank must lie in 1\.\.2"):
                ranks.keep(rank)


def image():
    """A picture of slowly falling singular values, 64 x 64."""
    axis = torch.linspace(-1, 1, 64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    waves = torch.stack([torch.sin((k + 1) * (x + 0.3 * k) * (y - 0.2 * k)) for k in range(8)])
    weights = 0.7 ** torch.arange(8)
    return (waves * weights[:, None, None]).sum(0) / 4 + 0.5, torch.stack((x, y), -1)


def fit_and_cut(schedule, steps=400):
    """PSNR of an image's rank-16 factors cut to 8, and of all."""
    truth, x = image()
    spec = {
        "type": "cp", "density": 16, "appearance": 1, "features": 1, "resolution": 64,
        "final_resolution": 64, "grow_at": [], "rank_schedule": schedule,
    }  # fmt: skip
    backbone = build("backbones", spec, in_dim=2, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(list(backbone.grids.values())[:2], lr=0.02)
    draw = torch.Generator().manual_seed(1)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    for step in range(steps):
        backbone.grow(at(step / steps, step))
        i, j = torch.randint(64, (2, 512), generator=draw)
        loss = (backbone.first_feature(x[i, j]) - truth[i, j]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()

    def psnr():
        return -10 * float((backbone.first_feature(x) - truth).detach().square().mean().log10())

    full = psnr()
    backbone.slim(8)
    return psnr(), full


def test_growing_ranks_make_a_field_that_can_be_cut_at_hardly_any_cost():
    joint_cut, joint = fit_and_cut("none")
    grown_cut, grown = fit_and_cut("fixed")
    assert grown_cut > joint_cut + 20
    assert grown > joint - 1
