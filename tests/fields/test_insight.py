"""What backbones show of themselves is what they compute."""

from __future__ import annotations

import pytest
import torch

from polyfield.encodings.base import Progress
from polyfield.fields.insight import Boxes, curves, edge_curves, middle, picture, strongest
from polyfield.fields.scattered import half_widths, kernel_values, packed
from polyfield.registry import build


def make(spec, in_dim=2):
    return build("backbones", spec, in_dim=in_dim, generator=torch.Generator().manual_seed(0))


def test_the_channels_that_vary_most_are_kept_in_their_order():
    values = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([3.0, 0.1, 2.0, 5.0])
    assert strongest(values, 2) == [0, 3]
    assert list(curves("c", values[:, 0], values, 2).lines) == ["1", "4"]


def test_edges_are_labelled_by_where_they_lead():
    edges = torch.zeros(5, 2, 3)
    edges[:, 1, 2] = torch.arange(5.0)
    shown = edge_curves("e", torch.arange(5.0), edges, 1, "xy")
    assert list(shown.lines) == ["y to 3"]
    assert torch.equal(shown.lines["y to 3"], torch.arange(5.0))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_coordinate_runs_right_and_the_second_down_in_images_else_up(dims):
    shown = middle("m", lambda x: x[:, :2] * torch.tensor([1.0, 2.0]), dims, torch.zeros(()))
    assert bool((shown.values[..., 0].diff(dim=1) > 0).all())
    assert bool(((shown.values[..., 1].diff(dim=0) > 0) == (dims == 2)).all())


def test_a_slice_passes_through_the_middle_and_a_line_is_a_curve():
    seen = []
    middle("m", lambda x: seen.append(x) or x[:, :1], 4, torch.zeros(()), axes=(1, 3))
    assert float(seen[0][:, [0, 2]].abs().max()) == 0 and float(seen[0].max()) == 1
    line = middle("m", lambda x: x[:, :1] ** 2, 1, torch.zeros(()))
    assert torch.equal(line.lines["1"], line.x**2) and line.name == "m over x"


def test_a_plane_keeps_its_values_and_labels():
    values = torch.arange(24.0).reshape(3, 4, 2)
    values[..., 1] = 0
    shown = picture("p", values, 1)
    assert torch.equal(shown.values[..., 0], values[..., 0].T) and shown.labels == ("1",)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "kan", "hidden": [], "out_features": 3},
        {"type": "kan", "basis": "chebyshev", "hidden": [], "out_features": 3},
        {"type": "s-kan", "widths": [3], "size": 4},
    ],
)
def test_edges_of_one_layer_of_one_input_are_the_network(spec):
    network = make(spec, in_dim=1)
    if spec["type"] == "s-kan":  # its edges are shown without the base
        torch.nn.init.zeros_(network.layers[0].base_weight)
    (shown,) = network.insights(limit=9)
    edges = torch.stack(list(shown.lines.values()), 1)
    torch.testing.assert_close(edges, network(shown.x[:, None]).detach(), rtol=1e-4, atol=1e-5)


def test_edges_of_a_pruned_selection_belong_to_their_inputs():
    network = make({"type": "s-kan", "widths": [4], "size": 4}, in_dim=3)
    torch.nn.init.zeros_(network.layers[0].base_weight)
    network.layers[0].prune(torch.tensor([4, 1, 2]))
    x = torch.rand(7, 3) * 2 - 1
    edges = [network.layers[0].edges(x[:, i], 1.0, False)[:, i] for i in range(3)]
    torch.testing.assert_close(sum(edges), network(x), rtol=1e-4, atol=1e-5)
    (shown,) = network.insights(limit=100)
    assert {label.split(" to ")[0] for label in shown.lines} == {
        "fourier 1", "chebyshev 2", "rbf 3",
    }  # fmt: skip


def test_lines_of_cp_are_its_factors_in_its_own_box():
    settings = {"density": 2, "appearance": 2, "features": 2, "resolution": 5}
    still = {"final_resolution": 5, "grow_at": [], "shrink_at": None}
    backbone = make({"type": "cp", **settings, **still}, in_dim=1)
    backbone.crop(torch.tensor([[-0.5], [0.5]]))
    shown = backbone.insights()[0]
    assert shown.name == "density line x" and shown.x.tolist() == [-0.5, 0, 0.5]
    assert torch.equal(shown.lines["1"], backbone.grids["density_0"][:, 0].detach())


def test_levels_of_a_hash_grid_show_their_own_features():
    backbone = make({"type": "hash-grid", "levels": 3, "max_resolution": 64, "log2_entries": 12})
    with torch.no_grad():
        backbone.encoding.table[-1] += 1  # an entry of the finest level
    before = make({"type": "hash-grid", "levels": 3, "max_resolution": 64, "log2_entries": 12})
    same = [
        torch.equal(a.values, b.values)
        for a, b in zip(backbone.insights(), before.insights(), strict=True)
    ]
    assert same == [True, True, False]


def test_boxes_of_tri_vectors_are_those_that_cover_points():
    backbone = make({"type": "tri-vector", "pitch": [1.0], "intervals": [[3]], "grow_at": [],
                     "density_ranks": [2], "appearance_ranks": [2], "features": 2})  # fmt: skip
    (shown,) = backbone.insights()
    assert isinstance(shown, Boxes)
    sides = shown.boxes[:, 1] - shown.boxes[:, 0]
    torch.testing.assert_close(sides, torch.full((4, 2), 1.5))
    assert shown.boxes.mean(1).tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]


def test_kernels_reach_half_their_height_at_their_boxes():
    matrix = torch.tensor([[[4.0, 1.0], [1.0, 2.0]]])
    half = half_widths(packed(matrix), "inverse-quadratic", 2)
    angle = torch.linspace(0, 2 * torch.pi, 20001)
    ring = torch.stack((angle.cos(), angle.sin()), 1)
    ring = ring / torch.einsum("ni,ij,nj->n", ring, matrix[0], ring).sqrt()[:, None]
    values = kernel_values(ring, packed(matrix).expand(len(ring), -1), "inverse-quadratic")
    torch.testing.assert_close(values, torch.full_like(values, 0.5))
    torch.testing.assert_close(ring.amax(0, keepdim=True), half, rtol=1e-4, atol=1e-4)
    tent = torch.tensor([[4.0]])
    (reach,) = half_widths(tent, "tent", 2)
    at = torch.tensor([[float(reach[0]), 0.0]])
    assert kernel_values(at, tent, "tent").item() == pytest.approx(0.5)


def test_modulation_shows_nothing_before_it_is_fitted():
    shown = make({"type": "cam", "width": 8, "depth": 2, "resolution": 4}).insights()
    assert [i.name for i in shown][:2] == ["scale less 1 of layer 1 over xy",
                                           "shift of layer 1 over xy"]  # fmt: skip
    assert max(float(i.values.abs().max()) for i in shown) < 1e-6


def test_shares_of_experts_sum_to_one():
    spec = {"type": "mlp-kan", "blocks": 1, "experts": 4, "top_k": 2, "width": 8, "hidden": 8}
    (shown,) = make(spec).insights()
    torch.testing.assert_close(shown.values.sum(-1), torch.ones(shown.values.shape[:2]))
    assert shown.labels == ("1 (MLP)", "2 (MLP)", "3 (KAN)", "4 (KAN)")


def test_trained_activations_start_as_relu():
    spec = {"type": "mlp", "activation": "trainable-matrix", "width": 4, "depth": 2, "skips": []}
    first, second = make({**spec, "tridiagonal": True}).insights()
    assert first.name == "activations of layer 1" and len(second.lines) == 4
    for line in first.lines.values():
        assert torch.equal(line, first.x.relu())
    assert make({"type": "mlp", "width": 4, "depth": 2}).insights() == []
    (shown,) = make({"type": "mlp", "activation": "cauchy", "width": 4, "depth": 2}).insights()
    assert set(shown.lines) == {"layer 1", "layer 2"}


def test_growing_ranks_show_active_components_only():
    spec = {
        "type": "cp",
        "density": 4,
        "appearance": 4,
        "features": 2,
        "resolution": 5,
        "final_resolution": 5,
        "grow_at": [],
        "shrink_at": None,
        "rank_schedule": "fixed",
    }
    backbone = make(spec)
    backbone.grow(Progress(0, 0.0))
    assert list(backbone.insights(limit=1)[0].lines) == ["1"]
