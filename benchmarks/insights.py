"""Pictures of what fields learn: short seeded fits, drawn for the pages of the documentation.

    python benchmarks/insights.py                      # all of them, into docs/images/learned
    python benchmarks/insights.py --only kan vm --out /tmp/try

Fits a formula, a drawn picture, and ``sample:orrery``; prints one JSON object with what the colours
and axes of every file mean. Settings and steps are fixed, so that another run gives the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import machine
from PIL import Image
from torch import Tensor

from polyfield.apps.options import prepare_process
from polyfield.fields.insight import Boxes, Curves, Insight, Picture
from polyfield.training.fit import fit
from polyfield.training.insight_pictures import boxes_sheet, curve_sheet, picture_sheet
from polyfield.training.model import load
from polyfield.training.pictures import save_picture, side_by_side, stacked, to_8_bit

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "learned"
SIDE = 192  # pixels of the picture
COLOURS = 128  # of a PNG file
WIDEST = 560  # pixels of a row of sheets
LARGEST = {"png": 150_000, "svg": 60_000}  # bytes


@dataclass(frozen=True)
class Case:
    """A fit and what to show of it.

    scene: ``formula``, ``picture`` or a sample; steps: of the fit; settings: of the run; names:
    beginnings of the insights' names, in the order they are shown; limit: most channels or curves
    of each.
    """

    scene: str
    steps: int
    settings: dict[str, Any]
    names: Sequence[str]
    limit: int = 4


def formula() -> Tensor:
    """exp(sin(pi x) + y^2), the example of the KAN paper, scaled to [0, 1]: (h, w, 3)."""
    y, x = _grid(SIDE)
    values = ((torch.pi * x).sin() + y.square()).exp()
    return (values / values.max())[..., None].expand(-1, -1, 3)


def picture() -> Tensor:
    """A disc with an edge on a smooth ground, and a weave that repeats: (h, w, 3)."""
    y, x = _grid(SIDE)
    ground = torch.stack((0.5 + 0.3 * x, 0.55 - 0.25 * y, 0.6 - 0.2 * x * y), -1)
    waves = (8 * torch.pi * x).sin() * (8 * torch.pi * y).sin()
    weave = torch.stack((0.45 + 0.4 * waves, 0.4 - 0.3 * waves, 0.5 + 0.1 * waves), -1)
    image = torch.where((x > 0.1)[..., None], weave, ground)
    radius = ((x + 0.45).square() + y.square()).sqrt()
    image[radius < 0.38] = torch.tensor([0.95, 0.85, 0.3])
    image[(radius > 0.2) & (radius < 0.25)] = torch.tensor([0.15, 0.2, 0.35])
    return image.clamp(0, 1)


def _grid(side: int) -> tuple[Tensor, ...]:
    axis = (2 * torch.arange(side) + 1) / side - 1
    return torch.meshgrid(axis, axis, indexing="ij")


PICTURES = {"formula": formula, "picture": picture}
_REGULARISED = {"losses": {"mse": 1.0, "regularisation": 1.0}}
CASES = {
    "kan": Case(
        "formula",
        1500,
        {
            "backbone": {"type": "kan", "hidden": [1], "out_features": 1, "squash": "none",
                         "intervals": 8, "extensions": [], "updates": [0.05, 0.1, 0.2, 0.3]},
            "fit": {"lr": 1e-2, "points": 4096},
        },
        ["edges of layer 1", "edges of layer 2"],
    ),
    "sl2a": Case(
        "picture",
        300,
        {"backbone": {"type": "sl2a", "degree": 64, "width": 64, "rank": 32}},
        ["Chebyshev edges"],
        8,
    ),
    "mlp-kan": Case(
        "picture", 800, {**_REGULARISED, "backbone": {"type": "mlp-kan"}}, ["shares of experts"]
    ),
    "hash-levels": Case(
        "picture",
        600,
        {"backbone": {"type": "hash-grid", "levels": 8, "features": 2, "log2_entries": 10,
                      "base_resolution": 4, "max_resolution": 64}},
        ["level"],
        1,
    ),
    "vm": Case("sample:orrery", 400, {"backbone": {"type": "vm"}}, ["density plane"], 2),
    "cp": Case("sample:orrery", 150, {"backbone": {"type": "cp"}}, ["density line"]),
    "tri-vector": Case(
        "sample:orrery", 400, {"backbone": {"type": "tri-vector"}}, ["tensors of scale 2"]
    ),
    "factor-field": Case(
        "picture",
        400,
        {
            "backbone": {
                "type": "factor-field",
                "coefficients": {"resolution": [12], "interpolation": "linear"},
                "basis": {"channels": [4, 4], "resolution": [24, 16], "frequency": [1.0, 8.0],
                          "interpolation": "linear"},
                "hidden": [32],
            },
            "fit": {"points": 8192},
        },
        ["coefficients", "basis"],
        8,
    ),
    "rbf": Case(
        "picture",
        300,
        {
            "backbone": {"type": "rbf", "kernels": 1000, "features": 8, "levels": 2,
                         "log2_entries": 8, "max_resolution": 24, "base_resolution": 8,
                         "composition": [0.5, 32.0], "place_points": 2**14, "place_at": [0.3]},
            "fit": {"points": 8192},
        },
        ["kernels"],
    ),
    "cam": Case(
        "picture",
        500,
        {
            "backbone": {"type": "cam", "width": 64, "groups": 1,
                         "encoding": {"frequencies": 128}},
            "fit": {"points": 4096},
        },
        ["scale less 1", "shift"],
    ),
    "functional-tensor": Case(
        "picture",
        300,
        {"backbone": {"type": "functional-tensor", "rank": 16}, "fit": {"points": 8192}},
        ["functions of"],
    ),
    "mlp": Case(
        "picture",
        600,
        {
            "backbone": {"type": "mlp", "activation": "trainable-matrix", "width": 32, "depth": 2,
                         "levels": 5},
            "fit": {"points": 2048, "lr": 1e-2},
        },
        ["activations of layer 1"],
        8,
    ),
}  # fmt: skip


def merged(shown: Sequence[Curves]) -> Curves:
    """Curves of several insights as one, their names before the labels.

    Where they are not over the same x, the labels say what theirs is.
    """
    if len(shown) == 1:
        return shown[0]
    same = all(torch.equal(c.x, shown[0].x) for c in shown)
    lines = {}
    for c in shown:
        span = "" if same else f" ({float(c.x[0]):.2g} to {float(c.x[-1]):.2g})"
        lines |= {f"{c.name}: {label}{span}": y for label, y in c.lines.items()}
    return Curves(f"{shown[0].name} to {shown[-1].name}", shown[0].x, lines)


def write_png(file: Path, image: Tensor) -> None:
    """A small file: few colours."""
    Image.fromarray(to_8_bit(image)).quantize(COLOURS).save(file, optimize=True)


def draw(shown: Sequence[Insight], stem: Path) -> dict[str, Any]:
    """One file of several insights of a kind, in rows."""
    lines = [s for s in shown if isinstance(s, Curves)]
    if lines:
        file = stem.with_suffix(".svg")
        drawing, scale = curve_sheet(merged(lines))
        file.write_text(drawing, encoding="utf-8")
        return {"file": file.name, "scale": [scale]}
    file, sheets, named = stem.with_suffix(".png"), [], []
    for insight in shown:
        assert isinstance(insight, (Boxes, Picture))
        draw_one = boxes_sheet if isinstance(insight, Boxes) else picture_sheet
        sheet, words = draw_one(insight)
        sheets.append(sheet)
        named.append(f"{insight.name}: {words}")
    columns = max(1, WIDEST // sheets[0].shape[1])
    rows = [side_by_side(sheets[i : i + columns]) for i in range(0, len(sheets), columns)]
    write_png(file, stacked(rows))
    return {"file": file.name, "scale": named}


def show(name: str, case: Case, out: Path, folder: Path) -> dict[str, Any]:
    """Fit a case, draw what it learned; a row of the result."""
    scene = case.scene
    if scene in PICTURES:
        scene = str(folder / f"{case.scene}.png")
        save_picture(Path(scene), PICTURES[case.scene]())
    result = fit(
        scene, folder / name, steps=case.steps, device="cpu",
        settings={**case.settings, "seed": 0},
    )  # fmt: skip
    insights = load(folder / name, "cpu").field.backbone.insights(case.limit)
    shown = [i for start in case.names for i in insights if i.name.startswith(start)]
    row = draw(shown, out / name)
    size = (out / row["file"]).stat().st_size
    assert size <= LARGEST[row["file"][-3:]], f"{row['file']} has {size} bytes"
    figures = {"steps": result.steps, "seconds": round(result.seconds, 1)}
    return {"scene": case.scene, **figures, "psnr": round(result.psnr, 2), "bytes": size, **row}


def main() -> None:
    """Read the options, show the cases, print what the files mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    prepare_process(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    write_png(args.out / "picture.png", picture())
    start, rows = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            rows[name] = show(name, CASES[name], args.out, Path(folder))
            print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"pictures": rows, "seconds": seconds, "machine": machine()}))


if __name__ == "__main__":
    main()
