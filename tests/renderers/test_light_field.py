"""The light-field renderer, with fields made up for the purpose."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from polyfield.errors import ConfigError
from polyfield.registry import configure
from polyfield.renderers.light_field import LightFieldConfig, render_light_field
from polyfield.renderers.types import Rays

WHITE = torch.ones(3)


def rays(n=6):
    o = torch.zeros(n, 3)
    d = torch.tensor([0.0, 0.0, 1.0]).expand(n, 3)
    return Rays(o, d, near=torch.full((n,), 1.0), far=torch.full((n,), 3.0))


@dataclass
class Sample:
    rgb: Tensor
    depth: Tensor | None = None
    opacity: Tensor | None = None
    valid: Tensor | None = None


@dataclass
class Slab:
    """Red between two depths, with a constant density."""

    near: Tensor
    far: Tensor
    start: float
    end: float
    sigma: float
    valid: Tensor | None = None

    def along(self, edges, generator=None):
        t = self.near[:, None] + (self.far - self.near)[:, None] * edges
        inside = (t[:, 1:].clamp(max=self.end) - t[:, :-1].clamp(min=self.start)).clamp(min=0)
        rgb = torch.tensor([1.0, 0.0, 0.0]).expand(*inside.shape, 3)
        return self.sigma * inside, rgb


class Field:
    """Answers with what it was given, and counts how often it was asked."""

    def __init__(self, make):
        self.make, self.calls, self.generators = make, 0, []

    def __call__(self, origins, directions, near, far, generator=None):
        self.calls += 1
        self.generators.append(generator)
        return self.make(near, far)


def render(make, n=6, config=None, background=WHITE, generator=None):
    field = Field(make)
    rendered = render_light_field(
        field, rays(n), None, config or LightFieldConfig(), background=background,
        generator=generator,
    )  # fmt: skip
    assert field.calls == 1 and field.generators == [generator]
    return rendered


def test_a_colour_is_shown_as_it_is_and_what_is_unknown_is_said():
    rgb = torch.rand(6, 3)
    rendered = render(lambda near, far: Sample(rgb))
    assert torch.equal(rendered.rgb, rgb)
    assert torch.equal(rendered.opacity, torch.ones(6)) and not rendered.depth.any()
    assert rendered.extras["depth_known"] is False and rendered.extras["opacity_known"] is False
    assert int(rendered.extras["samples"]) == 6


def test_what_is_not_opaque_shows_the_background():
    rgb, opacity = torch.rand(6, 3), torch.rand(6)
    rendered = render(lambda near, far: Sample(rgb, opacity=opacity), background=WHITE * 0.4)
    expected = rgb * opacity[:, None] + 0.4 * (1 - opacity[:, None])
    torch.testing.assert_close(rendered.rgb, expected)
    assert torch.equal(rendered.opacity, opacity)
    assert torch.equal(render(lambda near, far: Sample(rgb, opacity=opacity), background=None).rgb,
                       rgb * opacity[:, None])  # fmt: skip


def test_rays_that_are_not_valid_show_the_background_and_pass_no_gradient():
    rgb = torch.rand(6, 3, requires_grad=True)
    valid = torch.tensor([True, False] * 3)
    rendered = render(lambda near, far: Sample(rgb, depth=near + 1, valid=valid))
    assert torch.equal(rendered.rgb[1::2], torch.ones(3, 3))
    assert torch.equal(rendered.rgb[::2], rgb[::2])
    assert torch.equal(rendered.opacity, valid.float())
    assert torch.equal(rendered.depth, 2.0 * valid)
    rendered.rgb.sum().backward()
    assert not rgb.grad[1::2].any() and bool((rgb.grad[::2] == 1).all())


@pytest.mark.parametrize("samples", [2, 7, 200])
def test_opacity_of_a_distribution_does_not_depend_on_the_intervals(samples):
    make = lambda near, far: Slab(near, far, 1.5, 2.0, 3.0)  # noqa: E731
    rendered = render(make, config=LightFieldConfig(samples=samples))
    through = torch.exp(torch.tensor(-1.5))
    torch.testing.assert_close(rendered.opacity, (1 - through).expand(6))
    torch.testing.assert_close(rendered.rgb[0], torch.tensor([1.0, through, through]))
    assert rendered.extras["depth_known"] and rendered.extras["opacity_known"]


def test_depth_of_a_thin_opaque_layer_is_where_it_lies():
    make = lambda near, far: Slab(near, far, 2.4, 2.41, 1e4)  # noqa: E731
    rendered = render(make, config=LightFieldConfig(samples=400))
    torch.testing.assert_close(rendered.depth, torch.full((6,), 2.4), atol=0.01, rtol=0)


def test_an_opaque_background_takes_what_is_left():
    make = lambda near, far: Slab(near, far, 1.5, 2.0, 0.1)  # noqa: E731
    rendered = render(make, config=LightFieldConfig(opaque_background=True))
    torch.testing.assert_close(rendered.opacity, torch.ones(6))


def test_no_rays_at_all():
    assert render(lambda near, far: Sample(torch.zeros(0, 3)), n=0).rgb.shape == (0, 3)
    rendered = render(lambda near, far: Slab(near, far, 1.0, 2.0, 1.0), n=0)
    assert rendered.rgb.shape == (0, 3) and rendered.extras["weights"].shape == (0, 64)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="samples must be at least 2"):
        configure("renderers", {"type": "light-field", "samples": 1})
