"""Every registered backbone on every kind of task: a step or two, save, load, render.

Only what a backbone declares impossible (the numbers of dimensions it is registered with) is not
fitted, and then the refusal is tested.
"""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from polyfield.errors import ConfigError
from polyfield.fields.base import ALL_DIMS
from polyfield.registry import lookup, names
from polyfield.training import fit as fit_module
from polyfield.training.fit import fit, resume
from polyfield.training.model import load

IMAGES = {
    "data": {"downscale": 16},
    "sampler": {"type": "occupancy-grid", "resolution": 8, "steps": 24},
    "fit": {"rays": 48, "checks": 1, "log_every": 1, "lr": 1e-3},
}
SIGNAL = {"fit": {"points": 64, "checks": 1, "log_every": 1, "lr": 1e-3}}
DIMS = {"images": 3, "image": 2, "audio": 1, "shape": 3}
TETRAHEDRON = """v 1 1 1\nv -1 -1 1\nv -1 1 -1\nv 1 -1 -1
f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    rng = np.random.default_rng(0)
    iio.imwrite(folder / "picture.png", rng.integers(0, 256, (24, 32, 3), np.uint8))
    sound = (np.sin(np.arange(400) / 9) * 20000).astype("<i2")
    _write_wav(folder / "sound.wav", sound)
    (folder / "solid.obj").write_text(TETRAHEDRON)
    return {
        "images": "sample:orrery",
        "image": folder / "picture.png",
        "audio": folder / "sound.wav",
        "shape": folder / "solid.obj",
    }


def _write_wav(path, samples):
    import wave

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


def settings(name, task):
    base = IMAGES if task == "images" else SIGNAL
    if task == "shape":
        base = {**base, "data": {"points": 1024}}
    return {**base, "backbone": {"type": name}}


def shown(model, task):
    """What a user would see of a model."""
    if task == "images":
        from polyfield.renderers.types import Rays

        d = torch.nn.functional.normalize(torch.randn(20, 3, generator=_numbers()), dim=-1)
        rays = Rays(-2 * d, d, near=torch.zeros(20), far=torch.full((20,), 4.0))
        return model.eval().render(rays)["rgb"]
    x = torch.rand(50, DIMS[task], generator=_numbers()) * 2 - 1
    with torch.no_grad():
        return model.eval().values(x)


def _numbers():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("task", list(DIMS))
@pytest.mark.parametrize("name", names("backbones"))
def test_a_backbone_fits_is_saved_loaded_and_rendered(name, task, scenes, tmp_path, monkeypatch):
    out, user = tmp_path / "run", settings(name, task)
    if DIMS[task] not in lookup("backbones", name).traits.get("dims", ALL_DIMS):
        with pytest.raises(ConfigError, match="dimension"):
            fit(scenes[task], out, steps=2, settings=user, preset="tiny", device="cpu")
        return
    kept, finish = {}, fit_module._finish
    monkeypatch.setattr(
        fit_module, "_finish", lambda run, state: kept.update(s=state) or finish(run, state)
    )
    result = fit(scenes[task], out, steps=3, settings=user, preset="tiny", device="cpu")
    assert result.steps == 3 and np.isfinite(result.loss) and result.parameters > 0
    before = shown(kept["s"].model, task)
    assert torch.equal(shown(load(out, "cpu"), task), before)
    resume(out, steps=5, device="cpu")
    after = shown(load(out, "cpu"), task)
    assert bool(after.isfinite().all()) and not torch.equal(before, after)
