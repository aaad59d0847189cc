"""Files that show what a backbone has learned."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from polyfield.apps.cli import cli
from polyfield.errors import ConfigError
from polyfield.fields.insight import Boxes, Curves, Picture
from polyfield.registry import build, lookup, names
from polyfield.training.fit import fit
from polyfield.training.insight_pictures import (
    boxes_sheet,
    curve_sheet,
    export_insights,
    full_scale,
    picture_sheet,
    two_sided,
    write_insights,
)
from polyfield.training.model import load


def test_below_zero_is_blue_zero_white_above_red():
    low, zero, high = two_sided(torch.tensor([[-0.6, 0.0, 0.6]]))[0]
    assert low[2] > low[0] + 0.2 and high[0] > high[2] + 0.2
    assert zero.min() > 0.95 and torch.equal(two_sided(torch.full((1, 1), 5.0))[0, 0] * 255,
                                             torch.tensor([103.0, 0, 31]))  # fmt: skip


def test_the_scale_leaves_out_outliers_and_is_named():
    values = torch.linspace(-2, 2, 4001).reshape(1, -1).clone()
    values[0, -1] = 1000
    assert full_scale(values) == pytest.approx(1.99, abs=0.01)
    assert "red 1.99" in picture_sheet(Picture("p", values))[1]
    assert "dark is 0" in picture_sheet(Picture("p", values.abs()))[1]
    assert full_scale(torch.zeros(3)) == 1


def test_channels_lie_in_rows_of_four_on_one_scale():
    values = torch.zeros(8, 8, 5)
    values[..., 0], values[..., 4] = -1.0, 0.5
    sheet, _ = picture_sheet(Picture("p", values))
    assert sheet.shape == (2 * 128 + 4, 4 * 128 + 3 * 4, 3)
    strong, weak, empty = sheet[64, 64], sheet[128 + 4 + 64, 64], sheet[64, 128 + 4 + 64]
    assert empty.min() > 0.95
    assert (1 - strong.mean()) > (1 - weak.mean()) > 0.1


def test_large_pictures_are_averaged_and_keep_their_shape():
    assert picture_sheet(Picture("p", torch.ones(512, 256)))[0].shape == (128, 64, 3)


def test_curves_lie_where_their_values_are():
    x = torch.linspace(0, 2, 5)
    text, words = curve_sheet(Curves("a < b", x, {"up": x, "down": -x}))
    assert words == "x from 0 to 2, y from -2 to 2"
    root = ET.fromstring(text)
    up, down = (
        [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
        for line in root.iter("{http://www.w3.org/2000/svg}polyline")
    )
    assert up[0][1] == down[0][1] and up[-1][1] < down[-1][1]
    assert up[-1][0] > up[0][0] and down[0][0] > up[-1][0]


@pytest.mark.parametrize(("dims", "views"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_boxes_are_seen_along_each_axis(dims, views):
    boxes = torch.tensor([[-0.5, 0.0]]).T.expand(1, 2, 1).repeat(1, 1, dims)
    sheet, words = boxes_sheet(Boxes("b", boxes, torch.ones(1)))
    assert sheet.shape == (320, 320 * views + 4 * (views - 1), 3)
    assert words.startswith("1 boxes")
    bright = sheet[:, :320].sum(-1) > 1
    columns = bright.any(0).nonzero()[:, 0]
    assert columns.min() == 80 and columns.max() in (159, 160)
    if dims > 1:  # of a picture y runs down, else up
        rows = bright.any(1).nonzero()[:, 0]
        assert (float(rows.float().mean()) < 160) == (dims == 2)


def test_boxes_with_more_in_them_are_brighter():
    boxes = torch.tensor([[[-0.9, -0.9], [-0.1, -0.1]], [[0.1, 0.1], [0.9, 0.9]]])
    sheet, _ = boxes_sheet(Boxes("b", boxes, torch.tensor([0.1, 1.0])))
    assert sheet[:160].sum(-1).max() < 0.8 * sheet[160:].sum(-1).max()
    assert boxes_sheet(Boxes("b", boxes[:0]))[1] == "0 boxes"


@pytest.mark.parametrize("name", names("backbones"))
def test_whatever_a_backbone_shows_can_be_drawn(name, tmp_path):
    tiny = {**lookup("backbones", name).presets["tiny"]["backbone"], "type": name}
    dims = lookup("backbones", name).traits.get("dims", (3,))
    in_dim = 3 if 3 in dims else dims[0]
    made = build("backbones", tiny, in_dim=in_dim, generator=torch.Generator().manual_seed(0))
    shown = made.insights()
    rows = write_insights(shown, tmp_path / "new")
    files = [str(file) for file in sorted((tmp_path / "new").iterdir())]
    assert sorted(row["file"] for row in rows) == files and len(files) == len(shown)


def run_of(folder, backbone):
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 200
    iio.imwrite(folder / "image.png", image)
    out = folder / backbone["type"]
    fit(folder / "image.png", out, steps=3, device="cpu", settings={"backbone": backbone})
    return out


@pytest.fixture(scope="module")
def grid_run(tmp_path_factory):
    small = {"type": "hash-grid", "levels": 2, "log2_entries": 6, "max_resolution": 24,
             "base_resolution": 4, "width": 16, "layers": 1}  # fmt: skip
    return run_of(tmp_path_factory.mktemp("runs"), small)


def test_the_command_writes_the_files_it_lists(grid_run, tmp_path, capsys):
    folder = str(tmp_path / "i")
    cli(["export", str(grid_run), "--insight", folder, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"run", "out", "files", "seconds"} <= result.keys()
    files = sorted((tmp_path / "i").iterdir())
    assert [str(f) for f in files] == [row["file"] for row in result["files"]]
    assert files[0].name == "01-level-1-4-nodes-per-axis-over-xy.png"
    assert all(iio.imread(f).shape[2] == 3 for f in files)


def test_another_weight_makes_another_picture(grid_run, tmp_path):
    backbone = load(grid_run, "cpu").field.backbone
    before = write_insights(backbone.insights(), tmp_path / "before")
    with torch.no_grad():
        backbone.encoding.table[:8] += 1
    after = write_insights(backbone.insights(), tmp_path / "after")
    same = [
        np.array_equal(iio.imread(a["file"]), iio.imread(b["file"]))
        for a, b in zip(before, after, strict=True)
    ]
    assert same == [False, True]


def test_a_backbone_with_nothing_to_show_says_so(tmp_path):
    out = run_of(tmp_path, {"type": "siren", "width": 8, "depth": 2})
    with pytest.raises(ConfigError, match="'siren' has nothing to show"):
        export_insights(out, tmp_path / "i")
    assert not (tmp_path / "i").exists()
