import pytest
import torch

from polyfield.encodings.interpolation import interpolate
from polyfield.errors import ConfigError
from polyfield.registry import build


def make(name, in_dim=3, **settings):
    spec = {"type": name, "resolution": 5, "features": 4, **settings}
    encoding = build("encodings", spec, in_dim=in_dim, generator=torch.Generator().manual_seed(0))
    return encoding.double()


def points(n, in_dim, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, in_dim, dtype=torch.float64, generator=generator) * 2 - 1


@pytest.mark.parametrize("in_dim, factors", [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6)])
def test_one_line_per_coordinate(in_dim, factors):
    assert len(make("lines", in_dim).lines) == factors


@pytest.mark.parametrize("in_dim, factors", [(2, 1), (3, 3), (4, 6)])
def test_one_plane_per_pair(in_dim, factors):
    assert len(make("planes", in_dim).planes) == factors


@pytest.mark.parametrize("name", ["lines", "planes"])
def test_combinations_are_of_the_same_features(name):
    x = points(20, 3)
    side_by_side = make(name, combine="concat")(x)
    assert side_by_side.shape == (20, 12)
    parts = side_by_side.reshape(20, 3, 4)
    torch.testing.assert_close(make(name, combine="product")(x), parts.prod(1))
    torch.testing.assert_close(make(name, combine="sum")(x), parts.sum(1))


def test_product_of_lines_is_the_expanded_grid():
    lines = make("lines", resolution=(4, 5, 6))
    volume = torch.einsum("if,jf,kf->ijkf", *lines.lines)
    x = points(100, 3)
    torch.testing.assert_close(lines(x), interpolate(x, volume))


def test_planes_belong_to_the_pairs_of_axes_in_order():
    planes = make("planes", resolution=(4, 5, 6), combine="concat", features=1)
    assert [tuple(p.shape) for p in planes.planes] == [(4, 5, 1), (4, 6, 1), (5, 6, 1)]
    x = points(30, 3)
    expected = [interpolate(x[:, axes], p) for axes, p in zip(
        ([0, 1], [0, 2], [1, 2]), planes.planes, strict=True)]  # fmt: skip
    torch.testing.assert_close(planes(x), torch.cat(expected, -1))


@pytest.mark.parametrize("name", ["lines", "planes"])
def test_initial_values_fill_their_range(name):
    encoding = make(name, resolution=50, low=-0.25, high=0.75)
    values = torch.cat([p.flatten() for p in encoding.parameters()])
    assert -0.25 <= values.min() < -0.2 and 0.7 < values.max() <= 0.75


def test_single_node_ignores_its_coordinate():
    encoding = make("lines", 2, resolution=[1, 5])
    x = points(5, 2)
    elsewhere = torch.stack((-x[:, 0], x[:, 1]), -1)
    torch.testing.assert_close(encoding(x), encoding(elsewhere))


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("planes", {"resolution": [4, 5]}, "2 axes for 3"),
        ("lines", {"resolution": 0}, "resolution"),
        ("lines", {"features": 0}, "features"),
        ("planes", {"combine": "mean"}, "mean"),
        ("planes", {"low": 1.0}, "low"),
    ],
)
def test_unusable_settings_get_a_sentence(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        make(name, **settings)


def test_planes_need_two_coordinates():
    with pytest.raises(ConfigError, match="lines"):
        make("planes", 1)


@pytest.mark.parametrize("name", ["lines", "planes"])
def test_fit_of_a_separable_function_gets_close(name):
    encoding = build("encodings", {"type": name, "resolution": 16, "features": 1}, in_dim=3,
                     generator=torch.Generator().manual_seed(0))  # fmt: skip
    x = points(2000, 3).float()
    target = (1.5 + torch.sin(3 * x)).prod(-1, keepdim=True)
    optimiser = torch.optim.Adam(encoding.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        loss = (encoding(x) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 1e-3 * target.var()
