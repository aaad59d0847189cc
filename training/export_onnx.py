"""A light field as an ONNX graph: a camera in, an image out.

Inputs ``pose`` (4, 4), camera to scene box, OpenGL axes (x right, y up, looking along -z), and
``intrinsics`` (4,): fx, fy, cx, cy in pixels; output ``image`` (height, width, 3) in [0, 1].
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfield import backend
from polyfield.errors import ConfigError, MissingDependencyError
from polyfield.files import make_folder, replacing
from polyfield.renderers.types import Rays
from polyfield.run import RunDirectory
from polyfield.training.cameras import read_cameras
from polyfield.training.model import Model, load
from polyfield.training.photos import BACKGROUNDS

OPSET = 18


class PoseToImage(nn.Module):
    """A model behind a pinhole camera of fixed size.

    Args:
        model: A model of the light-field renderer.
        width: Of the image, pixels.
        height: Of the image.
        near: Least distance looked at.
        far: Largest distance looked at.
        background: Colour behind the scene.
    """

    pixels: Tensor
    background: Tensor

    def __init__(
        self, model: Model, size: tuple[int, int], near: float, far: float, background: float
    ):
        super().__init__()
        self.model, self.size, self.range = model, size, (near, far)
        x, y = (torch.arange(n, dtype=torch.float32) + 0.5 for n in size)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        self.register_buffer("pixels", grid.reshape(-1, 2))
        self.register_buffer("background", torch.full((3,), background))

    def forward(
        self, pose: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "4"]
    ) -> Float[Tensor, "height width 3"]:
        """The image that a camera sees."""
        plane = (self.pixels - intrinsics[2:]) / intrinsics[:2]
        local = torch.cat((plane[:, :1], -plane[:, 1:], -torch.ones_like(plane[:, :1])), -1)
        d = local @ pose[:3, :3].T
        d = d / d.norm(dim=-1, keepdim=True)
        o = pose[:3, 3].expand(d.shape)
        near, far = (torch.full_like(d[:, 0], t) for t in self.range)
        rgb = self.model(Rays(o, d, near, far), self.background).rgb
        width, height = self.size
        return rgb.clamp(0, 1).reshape(height, width, 3)


def export_onnx(
    run: str | Path, out: str | Path, *, width: int | None = None, height: int | None = None
) -> dict[str, Any]:
    """Write a run of the light-field renderer as an ONNX graph.

    Args:
        run: Run directory.
        out: File to write.
        width: Of the images (None: as fitted).
        height: Of the images (None: as fitted).

    Returns:
        ``run, out, width, height, bytes`` and ``inputs``, an example of them.

    Raises:
        ConfigError: Not a light field, normalised device coordinates, or a backbone with
            operations that have no counterpart in ONNX.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    kind = config["settings"].get("renderer", {}).get("type")
    if kind != "light-field":
        raise ConfigError(
            f"{run} is rendered by '{kind or 'nothing'}', and only light fields become ONNX graphs;"
            " fit one with --renderer light-field"
        )
    stored = read_cameras(directory)
    cameras = stored.cameras[torch.tensor(stored.splits["train"][:1])]
    if cameras.ndc:
        raise ConfigError(
            f"{run} was fitted in normalised device coordinates, which ONNX graphs are not made "
            "for; fit it without data.ndc"
        )
    size = (width or int(cameras.sizes[0, 0]), height or int(cameras.sizes[0, 1]))
    cameras = cameras.resized(*size)
    made = PoseToImage(
        load(run, "cpu"), size, float(cameras.near[0]), float(cameras.far[0]),
        BACKGROUNDS[config["background"]],
    ).eval()  # fmt: skip
    pose = torch.cat((cameras.c2w[0], torch.tensor([[0.0, 0.0, 0.0, 1.0]])))
    make_folder(Path(out).parent)
    with replacing(Path(out)) as temporary:
        _write(made, (pose, cameras.intrinsics[0]), temporary, config["settings"])
    inputs = {"pose": pose.tolist(), "intrinsics": cameras.intrinsics[0].tolist()}
    return {
        "run": str(run), "out": str(out), "width": size[0], "height": size[1],
        "bytes": Path(out).stat().st_size, "inputs": inputs,
    }  # fmt: skip


@torch.no_grad()
def _write(
    made: PoseToImage, example: tuple[Tensor, ...], path: Path, settings: dict[str, Any]
) -> None:
    """Trace and write.

    Raises:
        ConfigError: An operation of the backbone cannot be written.
        MissingDependencyError: The package onnx is not there.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingDependencyError(
            "the package onnx is needed to write graphs; pip install 'polyfield[onnx]'"
        )
    made.model.settings = {**settings, "backend": "torch"}  # kernels are no part of a graph
    try:
        with _quiet(), _symbols(), backend.using("torch"):
            torch.onnx.export(
                made, example, str(path), input_names=["pose", "intrinsics"],
                output_names=["image"], opset_version=OPSET, **_by_tracing(),
            )  # fmt: skip
    except (RuntimeError, TypeError, NotImplementedError, ValueError) as error:
        first = str(error).strip().splitlines()
        raise ConfigError(
            f"backbone '{settings['backbone']['type']}' with ray code "
            f"'{settings['field']['code']['type']}' cannot be written as an ONNX graph "
            f"({first[0].split('  [')[0] if first else type(error).__name__})"
        ) from error


def _by_tracing() -> dict[str, Any]:
    """The exporter that traces: numbers of rays may vary in it."""
    return {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}


def _expm1(graph: Any, x: Any) -> Any:
    one = graph.op("Constant", value_t=torch.tensor(1.0))
    return graph.op("Sub", graph.op("Exp", x), one)


# Operations of ours that ONNX can say and the exporter does not know.
SYMBOLS = {"aten::expm1": _expm1}


@contextlib.contextmanager
def _symbols() -> Any:
    """With `SYMBOLS` known to the exporter."""
    for name, symbol in SYMBOLS.items():
        torch.onnx.register_custom_op_symbolic(name, symbol, OPSET)
    try:
        yield
    finally:
        for name in SYMBOLS:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)


@contextlib.contextmanager
def _quiet() -> Any:
    """Without what the exporter prints and logs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
