"""Everything runs where it is told to.

With ``./test --device cuda`` these compare the GPU with the CPU. Without one, tensors without
storage (torch's "meta" device) still catch constants and buffers that were made on the CPU.
"""

from __future__ import annotations

import pytest
import torch

from polyfield.renderers.cameras import pinhole_cameras
from polyfield.renderers.types import Rays
from polyfield.training.fit import fit
from polyfield.training.model import Model, load
from polyfield.training.settings import resolve

SMALL_GRID = {"levels": 3, "log2_entries": 10, "max_resolution": 32}
SMALL_MLP = {"type": "mlp", "width": 16, "depth": 2, "skips": []}
SAMPLERS = {
    "stratified": {"type": "stratified", "samples": 16},
    "hierarchical": {"type": "hierarchical", "coarse_samples": 8, "fine_samples": 8},
    "occupancy-grid": {"type": "occupancy-grid", "resolution": 16, "steps": 32},
    "proposal": {"type": "proposal", "proposal_samples": [16], "samples": 8},
}


def rays(n: int = 40) -> Rays:
    generator = torch.Generator().manual_seed(3)
    origins = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1) * 2
    aim = 0.3 * torch.randn(n, 3, generator=generator)
    directions = torch.nn.functional.normalize(aim - origins, dim=-1)
    return Rays(origins, directions, torch.full((n,), 0.2), torch.full((n,), 4.0))


def make(sampler: str, backbone: dict, contraction: str = "none", **renderer: float) -> Model:
    user = {"sampler": SAMPLERS[sampler], "backbone": backbone, "renderer": renderer}
    settings = resolve(user)
    return Model(settings, contraction, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("contraction", ["none", "sphere"])
@pytest.mark.parametrize("backbone", [SMALL_GRID, SMALL_MLP], ids=["hash-grid", "mlp"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rendering_and_gradients_equal_those_of_the_cpu(device, sampler, backbone, contraction):
    results = []
    for where in ("cpu", device):
        model = make(sampler, backbone, contraction).to(where)
        rendered = model(rays().to(where), torch.ones(3, device=where))
        rendered.rgb.square().sum().backward()
        gradient = {
            n: p.grad.cpu() for n, p in model.field.named_parameters() if p.grad is not None
        }
        results.append((rendered.rgb.detach().cpu(), gradient))
    (rgb, gradient), (other_rgb, other_gradient) = results
    assert torch.allclose(rgb, other_rgb, atol=1e-4)
    assert gradient.keys() == other_gradient.keys()
    assert gradient
    for name, value in gradient.items():
        assert torch.allclose(value, other_gradient[name], atol=1e-3, rtol=1e-2), name


def test_a_fit_on_the_device_opens_on_the_cpu(device, tmp_path):
    settings = {
        "data": {"downscale": 8},
        "backbone": SMALL_GRID,
        "sampler": SAMPLERS["occupancy-grid"],
        "fit": {"rays": 128, "checks": 1},
    }
    result = fit("sample:orrery", tmp_path / "run", steps=6, settings=settings, device=str(device))
    assert result.steps == 6
    assert load(tmp_path / "run", "cpu").device.type == "cpu"


def test_nothing_is_made_on_the_cpu_behind_the_callers_back():
    cameras = pinhole_cameras(
        torch.eye(4)[None, :3].to("meta"), torch.ones(1, 4, device="meta"), (8, 6), 0.1, 4.0
    )
    made = cameras.rays(
        torch.zeros(5, dtype=torch.int64, device="meta"), torch.zeros(5, 2, device="meta")
    )
    assert made.directions.device.type == "meta"
    # which samples are lit is a question of values, and there are none here
    model = make("stratified", SMALL_MLP, early_stop_eps=0.0).to("meta")
    rendered = model(rays(5).to("meta"), torch.ones(3, device="meta"))
    assert rendered.rgb.device.type == "meta"
    assert rendered.rgb.shape == (5, 3)
