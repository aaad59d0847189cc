"""Path files: what is written is read back, and what is wrong is named."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from polyfield.errors import InputError
from polyfield.renderers.cameras import pinhole_cameras
from polyfield.renderers.paths import read_path, write_path

EYE = [[1, 0, 0, 0.1], [0, 1, 0, 0.2], [0, 0, 1, 3]]
GOOD = {"space": "box", "width": 64, "height": 48, "fov": 60, "frames": [{"c2w": EYE}]}


@dataclass
class Double:
    """World units twice as small as the box's."""

    def pose_to_box(self, c2w):
        out = c2w.copy()
        out[..., :3, 3] *= 2
        return out

    def pose_to_world(self, c2w):
        out = c2w.copy()
        out[..., :3, 3] /= 2
        return out


def save(folder, data):
    path = folder / "path.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_minimal_file(tmp_path):
    cameras = read_path(save(tmp_path, GOOD), near=0.5, far=torch.tensor([3.0, 4, 9]))
    focal = 32 / math.tan(math.radians(30))
    assert cameras.intrinsics[0].tolist() == pytest.approx([focal, focal, 32, 24])
    assert torch.allclose(cameras.c2w[0], torch.tensor(EYE))
    assert cameras.sizes.tolist() == [[64, 48]] and cameras.models == ("pinhole",)
    assert cameras.near.item() == 0.5 and cameras.far.item() == 4


def test_four_rows_and_per_frame_lenses(tmp_path):
    frames = [
        {"c2w": [*EYE, [0, 0, 0, 1]], "fov": 90},
        {"c2w": EYE, "intrinsics": [10, 20, 30, 40]},
        {"c2w": EYE},
    ]
    data = {**GOOD, "fov": None, "intrinsics": [1, 2, 3, 4], "frames": frames}
    got = read_path(save(tmp_path, data)).intrinsics.tolist()
    assert got[0] == pytest.approx([32, 32, 32, 24])
    assert got[1:] == [[10, 20, 30, 40], [1, 2, 3, 4]]


@pytest.mark.parametrize("transform", [None, Double()])
def test_written_paths_are_read_back(tmp_path, transform):
    c2w = torch.tensor([EYE, EYE])
    c2w[1, :, 3] = torch.tensor([1.0, 2, 3])
    cameras = pinhole_cameras(c2w, torch.tensor([50.0, 60, 31, 23]), (64, 48), 0.5, 4.0)
    write_path(tmp_path / "out.json", cameras, transform)
    again = read_path(tmp_path / "out.json", transform, near=0.5, far=4.0)
    assert torch.allclose(again.c2w, cameras.c2w)
    assert torch.allclose(again.intrinsics, cameras.intrinsics)
    assert torch.equal(again.sizes, cameras.sizes)


def test_world_units_go_through_the_transform(tmp_path):
    path = save(tmp_path, {k: v for k, v in GOOD.items() if k != "space"})
    assert read_path(path, Double()).c2w[0, :, 3].tolist() == pytest.approx([0.2, 0.4, 6])
    with pytest.raises(InputError, match="needs a scene's transform"):
        read_path(path)


def changed(**values):
    return {**GOOD, **values}


def frame(c2w):
    return changed(frames=[{"c2w": EYE}, {"c2w": c2w}])


SCALED = (np.array(EYE) * 2).tolist()
MIRRORED = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
BAD = {
    "not json": ("{", "not valid JSON"),
    "list": ([], "no object.*expected an object"),
    "no frames": (changed(frames=[]), "'frames' is missing or empty"),
    "frames of wrong kind": (changed(frames={"a": 1}), "'frames' is missing or empty"),
    "frame of wrong kind": (changed(frames=[3]), "frame 0 has no 'c2w'"),
    "no width": (changed(width=None), "'width' is None; expected a whole number"),
    "half height": (changed(height=10.5), "'height' is 10.5"),
    "no size": (changed(width=0), "'width' is 0"),
    "huge": (changed(width=10**9), "'width' is 1000000000"),
    "space": (changed(space="moon"), "'space' is 'moon'; expected 'box' or 'world'"),
    "fov": (changed(fov=180), "frame 0: 'fov' is 180"),
    "no lens": (changed(fov=None), "frame 0: 'fov' is None"),
    "true fov": (changed(fov=True), "'fov' is True"),
    "focal": (changed(intrinsics=[0, 1, 2, 3]), "positive focal"),
    "three intrinsics": (changed(intrinsics=[1, 2, 3]), "positive focal"),
    "shape": (frame([[1, 2], [3, 4]]), r"frame 1: 'c2w' is of shape \(2, 2\)"),
    "ragged": (frame([[1, 2, 3, 4], [1, 2], [3]]), "frame 1: 'c2w' is no matrix of numbers"),
    "text": (frame("eye"), "frame 1: 'c2w' is no matrix of numbers"),
    "scaled": (frame(SCALED), "frame 1: 'c2w' has no rotation.*determinant 8"),
    "mirrored": (frame(MIRRORED), "frame 1: 'c2w' has no rotation.*determinant -1"),
    "nan": (frame([[math.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), "frame 1: 'c2w' holds NaN"),
    "infinite": (frame([[1, 0, 0, math.inf], [0, 1, 0, 0], [0, 0, 1, 0]]), "frame 1: 'c2w' holds"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_answered_with_file_place_and_expectation(tmp_path, name):
    data, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        read_path(save(tmp_path, data))
    assert "path.json" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json does not exist"):
        read_path(tmp_path / "nowhere.json")


def test_an_empty_path_is_not_written(tmp_path):
    cameras = pinhole_cameras(torch.zeros(0, 3, 4), torch.ones(4), (8, 8))
    with pytest.raises(InputError, match="one or more cameras"):
        write_path(tmp_path / "out.json", cameras)
    assert not (tmp_path / "out.json").exists()
