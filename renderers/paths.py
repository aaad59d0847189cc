"""Camera paths for videos: around the scene, a forward-facing spiral, through given views.

Poses are camera to box, OpenGL style. p: camera positions; f: viewing directions (-z axes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.errors import InputError
from polyfield.renderers.cameras import Cameras, pinhole_cameras
from polyfield.renderers.path_files import read_path, write_path

__all__ = [
    "focus_point",
    "interpolate_path",
    "orbit_path",
    "read_path",
    "spiral_path",
    "write_path",
]

Up = Sequence[float] | Float[Tensor, "3"] | None

# A gap in the azimuths wider than this means the capture does not go all the way round.
_OPEN_ARC = math.radians(100)


def _unit(v: Tensor) -> Tensor:
    return torch.nn.functional.normalize(v, dim=-1)


def _parts(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Positions and viewing directions in float64."""
    if len(cameras) == 0:
        raise InputError("a camera path needs at least one camera to go by, got none")
    c2w = cameras.c2w.double()
    return c2w[:, :, 3], -c2w[:, :, 2]


def focus_point(
    positions: Float[Tensor, "views 3"], directions: Float[Tensor, "views 3"]
) -> Float[Tensor, "3"]:
    """Point nearest to all viewing axes, in the least-squares sense.

    Parallel axes meet nowhere; a faint pull to the point of the mean axis that is nearest to
    the origin of the box keeps the answer finite and in front of the cameras.
    """
    eye = torch.eye(3, dtype=positions.dtype, device=positions.device)
    across = eye - directions[:, :, None] * directions[:, None, :]
    centre, ahead = positions.mean(0), _unit(directions.mean(0))
    default = centre + (-(centre @ ahead)).clamp(min=0.1) * ahead
    pull = 1e-4 * len(positions)
    matrix = across.sum(0) + pull * eye
    return torch.linalg.solve(
        matrix, (across @ positions[..., None])[..., 0].sum(0) + pull * default
    )


def _look(
    position: Float[Tensor, "frames 3"], forward: Float[Tensor, "frames 3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "frames 3 4"]:
    """Poses at `position` looking along `forward`, level with `up`."""
    back = _unit(-forward)
    right = torch.linalg.cross(up.expand_as(back), back)
    # Looking straight along up leaves the roll open: any perpendicular does.
    spare = torch.linalg.cross(torch.roll(up, 1).expand_as(back) + 0.1, back)
    right = _unit(torch.where(right.norm(dim=-1, keepdim=True) < 1e-6, spare, right))
    return torch.stack([right, torch.linalg.cross(back, right), back, position], -1)


def _up(cameras: Cameras, up: Up) -> Tensor:
    if up is None:
        mean = cameras.c2w.double()[:, :, 1].mean(0)
        return _unit(mean) if mean.norm() > 1e-6 else mean.new_tensor([0.0, 0.0, 1.0])
    return _unit(torch.as_tensor(up, dtype=torch.float64, device=cameras.c2w.device))


def _path(c2w: Tensor, like: Cameras) -> Cameras:
    """Undistorted cameras of the first view's size and the median focal length."""
    width, height = like.sizes[0].tolist()
    ratio = (like.intrinsics[:, :2] / like.sizes).median(0).values * like.sizes[0]
    centre = like.sizes[0].to(ratio) / 2
    made = pinhole_cameras(c2w.to(like.c2w), torch.cat([ratio, centre]), (width, height))
    n = len(c2w)
    return replace(
        made,
        near=like.near.median().expand(n),
        far=like.far.median().expand(n),
        ndc=like.ndc,
        ndc_scale=like.ndc_scale,
        ndc_near=like.ndc_near,
    )


def _azimuths(radial: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angles about `up`, and the two horizontal axes they are measured from."""
    axis = torch.eye(3, dtype=up.dtype, device=up.device)[up.abs().argmin()]
    east = _unit(torch.linalg.cross(axis, up))
    north = torch.linalg.cross(up, east)
    return torch.atan2(radial @ north, radial @ east), east, north


def _sweep(azimuth: Tensor, frames: int) -> Tensor:
    """Angles of a path: once round, or to and fro over the arc that the cameras cover."""
    ordered = azimuth.sort().values
    gaps = torch.diff(ordered, append=ordered[:1] + 2 * math.pi)
    s = torch.arange(frames, dtype=azimuth.dtype, device=azimuth.device) / frames
    widest = int(gaps.argmax())
    if gaps[widest] < _OPEN_ARC:
        return ordered[0] + 2 * math.pi * s
    start = ordered[(widest + 1) % len(ordered)]
    return start + (2 * math.pi - gaps[widest]) * (1 - torch.cos(2 * math.pi * s)) / 2


def orbit_path(cameras: Cameras, frames: int, up: Up = None) -> Cameras:
    """A closed path around what the cameras look at, at their median height and distance.

    Cameras that cover only part of a circle are followed to and fro over that part; cameras
    that look outwards (a room seen from its middle) give a path that looks outwards.

    Args:
        cameras: The views of the capture.
        frames: Number of poses.
        up: Upward direction in the box (None: the mean of the cameras').

    Raises:
        InputError: There are no cameras.
    """
    p, f = _parts(cameras)
    up = _up(cameras, up)
    focus = focus_point(p, f)
    outward = bool((((focus - p) * f).sum(-1)).median() <= 0)
    centre = p.mean(0) if outward else focus
    radial = p - centre
    height = radial @ up
    azimuth, east, north = _azimuths(f if outward else radial, up)
    angle = _sweep(azimuth, frames)
    around = angle.cos()[:, None] * east + angle.sin()[:, None] * north
    flat = (radial - height[:, None] * up).norm(dim=-1).median()
    position = centre + flat * around + height.median() * up
    forward = around + (f @ up).median() * up if outward else centre - position
    return _path(_look(position, forward, up), cameras)


def spiral_path(cameras: Cameras, frames: int, up: Up = None, turns: float = 2.0) -> Cameras:
    """A spiral about the mean pose that keeps looking at one point, for forward-facing captures.

    Its radii are the 90th percentile of the cameras' offsets from the mean pose; the point lies
    between the near and far bounds (3/4 of the way in disparity), or where the axes meet when
    the bounds do not say.

    Source: Mildenhall et al. 2019 (LLFF).

    Raises:
        InputError: There are no cameras.
    """
    p, f = _parts(cameras)
    up = _up(cameras, up)
    mean = _look(p.mean(0)[None], _unit(f.mean(0))[None], up)[0]
    axes, centre = mean[:, :3], mean[:, 3]
    radii = torch.quantile(((p - centre) @ axes).abs(), 0.9, dim=0)
    near, far = cameras.near.double().min() * 0.9, cameras.far.double().max() * 5
    depth = -((focus_point(p, f) - centre) @ axes[:, 2])
    if near > 1e-3 and far < 1e3:
        depth = 1 / (0.25 / near + 0.75 / far)
    depth = depth.clamp(min=1e-2)
    angle = 2 * math.pi * turns * torch.arange(frames, dtype=p.dtype, device=p.device) / frames
    curve = torch.stack([angle.cos(), -angle.sin(), -(angle * 0.5).sin()], -1) * radii
    position = centre + curve @ axes.T
    return _path(_look(position, centre - depth * axes[:, 2] - position, up), cameras)


def _quaternions(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """Unit quaternions (w, x, y, z), from the eigenvector that fits a rotation best."""
    m = rotation
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    k = m.new_zeros(len(m), 4, 4)
    k[:, 0, 0] = trace
    antisymmetric = m - m.transpose(-1, -2)
    k[:, 0, 1:] = torch.stack(
        [antisymmetric[:, 2, 1], antisymmetric[:, 0, 2], antisymmetric[:, 1, 0]], -1
    )
    k[:, 1:, 0] = k[:, 0, 1:]
    eye = torch.eye(3, dtype=m.dtype, device=m.device)
    k[:, 1:, 1:] = m + m.transpose(-1, -2) - trace[:, None, None] * eye
    return torch.linalg.eigh(k).eigenvectors[..., -1]


def _rotations(q: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    w, x, y, z = q.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def _slerp(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    dot = (a * b).sum(-1, keepdim=True)
    b, dot = torch.where(dot < 0, -b, b), dot.abs().clamp(max=1)
    angle, s = dot.acos(), s[:, None]
    close = angle < 1e-6
    sine = torch.where(close, 1.0, angle.sin())
    wa = torch.where(close, 1 - s, ((1 - s) * angle).sin() / sine)
    wb = torch.where(close, s, (s * angle).sin() / sine)
    return _unit(wa * a + wb * b)


def interpolate_path(cameras: Cameras, frames: int, closed: bool = False) -> Cameras:
    """A path through the given cameras in order, positions linear and rotations by slerp.

    Args:
        cameras: The poses to pass; the first frame is the first of them.
        frames: Number of poses, spread evenly over the pairs.
        closed: Return to the first camera (the last frame stops one step before it);
            otherwise the last frame is the last camera.

    Raises:
        InputError: There are no cameras.
    """
    p, _ = _parts(cameras)
    q = _quaternions(cameras.c2w.double()[:, :, :3])
    n = len(p)
    if closed:
        s = torch.arange(frames, dtype=p.dtype, device=p.device) * (n / max(frames, 1))
    else:
        s = torch.linspace(0, n - 1, frames, dtype=p.dtype, device=p.device)
    i = s.floor().long().clamp(max=n - 1)
    j, u = ((i + 1) % n if closed else (i + 1).clamp(max=n - 1)), s - i
    position = p[i] + u[:, None] * (p[j] - p[i])
    return _path(torch.cat([_rotations(_slerp(q[i], q[j], u)), position[..., None]], -1), cameras)
