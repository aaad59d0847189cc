"""TensoRF's vector-matrix decomposition, and SlimmeRF's ranks in it."""

from __future__ import annotations

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.errors import ConfigError
from polyfield.fields.backbones.vm import PRESETS
from polyfield.fields.ranks import EPS
from polyfield.registry import build

SMALL = {
    "density": 4, "appearance": 12, "features": 5, "resolution": 6, "final_resolution": 9,
    "grow_at": [0.5], "shrink_at": None,
}  # fmt: skip


def make(seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return build("backbones", {"type": "vm", **SMALL, **settings}, in_dim=3, generator=generator)


def points(n=60):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


def parameters(backbone):
    return sum(p.numel() for p in backbone.parameters())


def expanded(backbone, kind):
    """The dense grid (components of all orientations, x, y, z) that the factors stand for."""
    g = backbone.grids
    terms = ("xyr,zr->rxyz", "xzr,yr->rxyz", "yzr,xr->rxyz")
    return torch.cat(
        [torch.einsum(t, g[f"{kind}_plane_{i}"], g[f"{kind}_line_{i}"])
         for i, t in enumerate(terms)]
    )  # fmt: skip


def trilinear(volume, x):
    """torch's own lookup; it counts axes from the last."""
    out = torch.nn.functional.grid_sample(
        volume[None], x.flip(-1)[None, None, None], align_corners=True
    )
    return out[0, :, 0, 0].T


class TestDecomposition:
    @pytest.mark.parametrize(
        ("density", "appearance", "factors", "basis"),
        [(16, 48, 17_337_600, 3_888), (4, 12, 4_334_400, 972)],
    )
    def test_paper_sizes(self, density, appearance, factors, basis):
        spec = {"type": "vm", "density": density, "appearance": appearance, "resolution": 300}
        backbone = build("backbones", spec, in_dim=3)
        assert sum(p.numel() for p in backbone.grids.values()) == factors
        assert backbone.basis.numel() == basis and backbone.out_dim == 28

    def test_is_the_dense_grid_it_stands_for(self):
        backbone, x = make(), points()
        ranks = backbone.ranks.sizes()
        backbone.resize({"resolution": [5, 6, 7], "stage": 0, "shrunk": False, "ranks": ranks})
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(2))
        out = backbone(x)
        density = trilinear(expanded(backbone, "density").sum(0, keepdim=True), x)
        torch.testing.assert_close(out[:, :1], density, atol=1e-6, rtol=1e-5)
        appearance = trilinear(expanded(backbone, "appearance"), x) @ backbone.basis.T
        torch.testing.assert_close(out[:, 1:], appearance, atol=3e-6, rtol=1e-5)

    def test_starts_small_as_the_paper_does(self):
        plane = make(resolution=40, final_resolution=40, grow_at=[]).grids["density_plane_0"]
        assert 0.098 < float(plane.detach().std()) < 0.102

    def test_ranks_may_differ_by_orientation(self):
        backbone = make(density=[4, 2, 1], appearance=[12, 6, 3])
        assert backbone.basis.shape == (5, 21) and backbone(points()).shape == (60, 6)
        assert backbone.grids["density_plane_1"].shape == (6, 6, 2)

    def test_opacity_of_the_papers_head(self):
        backbone = make()
        for grid in backbone.grids.values():
            torch.nn.init.zeros_(grid)
        heads = {**PRESETS["paper"]["field"], "hidden": [8]}
        field = build("fields", heads, backbone=backbone)
        opacity = -torch.expm1(-field.density(points(3)) * 0.011811)
        torch.testing.assert_close(opacity, torch.full((3,), 1.34e-5), rtol=2e-3, atol=0)
        torch.nn.init.ones_(backbone.grids["density_line_0"])
        torch.nn.init.constant_(backbone.grids["density_plane_0"], 10 / 4)
        opacity = -torch.expm1(-field.density(points(3)) * 0.0050167)
        torch.testing.assert_close(opacity, torch.full((3,), 0.0833), rtol=2e-3, atol=0)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"density": 0}, "at least 1"),
            ({"appearance": [1, 2]}, "appearance"),
            ({"l1": -1.0}, "l1 must not be negative"),
            ({"rate": 0.0}, "rate must be positive"),
            ({"resolution": 1}, "at least 2"),
            ({"rank_share": 0.0}, "rank_share must"),
            ({"rank_schedule": "jumps"}, "jump"),
        ],
    )
    def test_unusable_settings_get_a_sentence(self, wrong, words):
        with pytest.raises(ConfigError, match=words):
            make(**wrong)


class TestPenalties:
    def test_are_those_of_the_paper(self):
        backbone = make(l1=2.0, tv_density=3.0, tv_appearance=0.0)
        for name, grid in backbone.grids.items():
            torch.nn.init.constant_(grid, -2.0 if "line" in name else 0.5)
        terms = backbone.regularisation()
        assert set(terms) == {"l1", "tv_density"}
        assert terms["l1"].item() == pytest.approx(2.0 * 3 * (2.0 + 0.5))
        assert terms["tv_density"].item() == 0
        ramp = torch.arange(6.0)[:, None, None].expand(6, 6, 4)
        backbone.grids["density_plane_1"].data.copy_(ramp)
        tv = backbone.regularisation()["tv_density"].item()
        assert tv == pytest.approx(3.0 * 1e-2 * 2 * 1.0)

    def test_sparsity_is_asked_for_less_in_a_shrunk_box(self):
        backbone = make(l1=8.0, l1_shrunk=4.0)
        before = backbone.regularisation()["l1"].item()
        backbone.shrunk = True
        assert backbone.regularisation()["l1"].item() == pytest.approx(before / 2)

    def test_inactive_components_have_no_part_in_them(self):
        backbone = make(l1=1.0, rank_schedule="fixed")
        before = backbone.regularisation()["l1"].item()
        with torch.no_grad():
            backbone.grids["density_plane_0"][..., 1:] += 100
        assert backbone.regularisation()["l1"].item() == pytest.approx(before, rel=1e-3)


class TestRanks:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_a_cut_field_is_the_one_built_at_that_rank(self, rank):
        full, x = make(), points()
        small = make(1, density=rank, appearance=3 * rank)
        for name, grid in full.grids.items():
            kept = rank * (1 if "density" in name else 3)
            small.grids[name].data.copy_(grid[..., :kept])
        blocks = full.basis.detach().reshape(5, 3, 12)[..., : 3 * rank]
        small.basis.data.copy_(blocks.reshape(5, -1))
        full.slim(rank)
        assert parameters(full) == parameters(small)
        torch.testing.assert_close(full(x), small(x), rtol=0, atol=1e-6)

    def test_a_cut_field_is_the_masked_one(self):
        backbone, x = make(rank_schedule="fixed"), points()
        backbone.grow(Progress(1, 0.25))
        assert backbone.ranks.active == 3
        masked, size = backbone(x), parameters(backbone)
        backbone.slim(3)
        torch.testing.assert_close(backbone(x), masked, rtol=0, atol=1e-5)
        assert parameters(backbone) < size

    def test_cutting_to_all_changes_nothing_and_cutting_twice_is_cutting_once(self):
        once, twice, x = make(), make(), points()
        expected = once(x)
        once.slim(4)
        assert torch.equal(once(x), expected)
        once.slim(1)
        twice.slim(3)
        twice.slim(1)
        assert torch.equal(once(x), twice(x)) and parameters(once) == parameters(twice)

    def test_a_cut_field_is_saved_and_loaded(self):
        a, b, x = make(density=[4, 2, 1]), make(1, density=[4, 2, 1]), points()
        a.grow(Progress(1, 0.6))
        a.slim(2)
        b.resize(a.sizes())
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(x), b(x))

    def test_sizes_are_affine_in_the_rank(self):
        sizes = []
        for rank in (4, 3, 2, 1):
            backbone = make()
            backbone.slim(rank)
            sizes.append(parameters(backbone))
        steps = {a - b for a, b in zip(sizes, sizes[1:], strict=False)}
        assert steps == {3 * 4 * (36 + 6) + 9 * 5}

    def test_gradients_of_inactive_pairs_are_eps_squared_of_what_they_would_be(self):
        x = points()
        slopes = []
        for schedule in ("none", "fixed"):
            backbone = make(rank_schedule=schedule).double()
            backbone.first_feature(x.double()).sum().backward()
            slopes.append(backbone.grids["density_plane_0"].grad)
        torch.testing.assert_close(slopes[1][..., 0], slopes[0][..., 0])
        torch.testing.assert_close(slopes[1][..., 1:], EPS**2 * slopes[0][..., 1:])

    def test_inactive_components_stay_where_they_are(self):
        backbone, x = make(rank_schedule="fixed"), points()
        before = {n: g.detach().clone() for n, g in backbone.grids.items()}
        optimiser = torch.optim.Adam(backbone.parameters(), lr=0.02)
        for _ in range(100):
            optimiser.zero_grad()
            (backbone(x) - 1).square().mean().backward()
            optimiser.step()
        for name, grid in backbone.grids.items():
            active = 1 if "density" in name else 3
            moved = (grid.detach() - before[name]).abs() / before[name].abs().clamp(min=1e-3)
            assert float(moved[..., active:].max()) < 1e-4
            assert float(moved[..., :active].max()) > 0.1


def fit_sphere(name, **ranks):
    """PSNR of a binary ball of 20^3 voxels after 200 steps of Adam."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 20)] * 3, indexing="ij")
    x = torch.stack(axes, -1).reshape(-1, 3)
    truth = (x.norm(dim=-1) < 0.7).float()
    spec = {
        "type": name, "features": 1, "resolution": 20, "final_resolution": 20, "grow_at": [],
        "shrink_at": None, **ranks,
    }  # fmt: skip
    backbone = build("backbones", spec, in_dim=3, generator=torch.Generator().manual_seed(0))
    grids = [g for n, g in backbone.grids.items() if n.startswith("density")]
    optimiser = torch.optim.Adam(grids, lr=0.02)
    for _ in range(200):
        error = (backbone.first_feature(x) - truth).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return -10 * error.detach().log10().item()


def test_planes_of_low_rank_beat_lines_of_high_rank_on_a_ball():
    few = {"density": 1, "appearance": 1}
    one = fit_sphere("vm", **few)
    four = fit_sphere("vm", **{**few, "density": 4})
    lines = fit_sphere("cp", **{**few, "density": 16})
    assert one > 20 and four > one + 10 and four > lines + 5
