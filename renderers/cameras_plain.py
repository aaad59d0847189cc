"""Cameras as plain data, so that a run can be rendered without the scene it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from polyfield.errors import RunError
from polyfield.renderers.cameras import Cameras


def cameras_to_plain(cameras: Cameras) -> dict[str, Any]:
    """Every field of `cameras` as lists and numbers; float32 values survive JSON exactly."""
    values = {f.name: getattr(cameras, f.name) for f in fields(cameras)}
    return {
        name: value.tolist() if isinstance(value, Tensor) else _listed(value)
        for name, value in values.items()
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def cameras_from_plain(data: Mapping[str, Any]) -> Cameras:
    """The cameras that `cameras_to_plain` described, on the CPU.

    Raises:
        RunError: A field is missing or of the wrong shape.
    """
    try:
        values = dict(data)
        for name in ("c2w", "intrinsics", "distortion", "near", "far"):
            values[name] = torch.tensor(data[name], dtype=torch.float32)
        values["sizes"] = torch.tensor(data["sizes"], dtype=torch.int64)
        values["models"] = tuple(data["models"])
        if data.get("ndc_scale") is not None:
            values["ndc_scale"] = tuple(data["ndc_scale"])
        return Cameras(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the run's cameras.json is not usable ({error}); fit anew") from error
