"""Lens models: directions in the camera <-> coordinates on the sensor.

A pixel (px, py) becomes ``m = ((px - cx) / fx, (py - cy) / fy)``, the measured coordinates. The
lens maps the ideal plane to it, ``m = distort(n)``; the ideal plane of a model is reached from
directions by `flatten` and left by `lift`:

=============== ======================== =======================================
plane           models                   n for a direction at angle theta, azimuth a
=============== ======================== =======================================
tangent         pinhole, opencv,         tan(theta) (cos a, sin a) = (x/z, y/z)
                full-opencv, fov
equidistant     opencv-fisheye,          theta (cos a, sin a)
                thin-prism-fisheye
sphere          equirectangular          (longitude, latitude downwards), radians
=============== ======================== =======================================

Axes in this file are OpenCV's: x right, y down, z forward. Formulas: OpenCV's calib3d manual and
COLMAP's camera models; radial R and tangential and prism terms share one Newton inversion.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MODELS: dict[str, tuple[str, ...]] = {
    "pinhole": (),
    "opencv": ("k1", "k2", "k3", "k4", "p1", "p2"),
    "opencv-fisheye": ("k1", "k2", "k3", "k4"),
    "full-opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fov": ("omega",),
    "thin-prism-fisheye": ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    "equirectangular": (),
}
"""Camera model -> the order of its distortion parameters.

COLMAP's eleven models are these, with zeros where a parameter is missing: SIMPLE_PINHOLE and
PINHOLE are ``pinhole``; SIMPLE_RADIAL (k1), RADIAL (k1 k2) and OPENCV (k1 k2 p1 p2, mind the
order) are ``opencv``; SIMPLE_RADIAL_FISHEYE (k1), RADIAL_FISHEYE (k1 k2) and OPENCV_FISHEYE are
``opencv-fisheye``; FULL_OPENCV, FOV and THIN_PRISM_FISHEYE keep COLMAP's own order. The focal
lengths of ``equirectangular`` are pixels per radian: width / (2 pi) and height / pi.
"""

EQUIDISTANT = frozenset({"opencv-fisheye", "thin-prism-fisheye"})
UNDISTORTED = frozenset({"pinhole", "equirectangular"})
MAX_PARAMETERS = 12
NEWTON_STEPS = 10


def lift(model: str, n: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    """Camera directions of ideal-plane coordinates (z = 1 on the tangent plane, else unit)."""
    x, y = n.unbind(-1)
    if model == "equirectangular":
        return torch.stack([x.sin() * y.cos(), y.sin(), x.cos() * y.cos()], -1)
    if model not in EQUIDISTANT:
        return torch.stack([x, y, torch.ones_like(x)], -1)
    theta = n.norm(dim=-1)
    # torch.sinc is sin(pi x) / (pi x), smooth at 0.
    return torch.cat([torch.sinc(theta / torch.pi)[..., None] * n, theta.cos()[..., None]], -1)


def flatten(model: str, d: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
    """Ideal-plane coordinates of camera directions of any length; the inverse of `lift`.

    On the tangent plane a direction with z <= 0 has no image; what is returned is finite and
    meaningless.
    """
    x, y, z = d.unbind(-1)
    if model == "equirectangular":
        return torch.stack([torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))], -1)
    if model not in EQUIDISTANT:
        return d[..., :2] / torch.where(z.abs() < 1e-12, 1e-12, z)[..., None]
    r = torch.hypot(x, y)
    small = r < 1e-12
    factor = torch.where(small, 1 / z.abs().clamp(min=1e-12), torch.atan2(r, z) / r.clamp(1e-12))
    return d[..., :2] * factor[..., None]


def _named(model: str, params: Tensor) -> dict[str, Tensor]:
    return dict(zip(MODELS[model], params.unbind(-1), strict=False))


def _fov(omega: Tensor, r2: Tensor) -> tuple[Tensor, Tensor]:
    # omega -> 0 is a pinhole; a tiny omega stands for it without a division by zero.
    omega = torch.where(omega.abs() < 1e-4, 1e-4, omega)
    a = 2 * torch.tan(omega / 2)
    r = r2.clamp(min=1e-12).sqrt()
    ratio = torch.atan(a * r) / (omega * r)
    slope = (a / (omega * (1 + (a * r) ** 2)) - ratio) / (2 * r * r)
    return ratio, torch.where(r2 < 1e-6, -(a**3) / (3 * omega), slope)


def _radial(model: str, k: dict[str, Tensor], r2: Tensor) -> tuple[Tensor, Tensor]:
    """R and dR/d(r^2)."""
    if model == "fov":
        return _fov(k["omega"], r2)
    if model == "full-opencv":
        top = 1 + r2 * (k["k1"] + r2 * (k["k2"] + r2 * k["k3"]))
        low = 1 + r2 * (k["k4"] + r2 * (k["k5"] + r2 * k["k6"]))
        d_top = k["k1"] + r2 * (2 * k["k2"] + 3 * r2 * k["k3"])
        d_low = k["k4"] + r2 * (2 * k["k5"] + 3 * r2 * k["k6"])
        ratio = top / low
        return ratio, (d_top - ratio * d_low) / low
    value = 1 + r2 * (k["k1"] + r2 * (k["k2"] + r2 * (k["k3"] + r2 * k["k4"])))
    return value, k["k1"] + r2 * (2 * k["k2"] + r2 * (3 * k["k3"] + 4 * r2 * k["k4"]))


def _distort(
    model: str, k: dict[str, Tensor], x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Measured (x, y) and the Jacobian (xx, xy, yx, yy) of the map."""
    xx, yy, xy = x * x, y * y, x * y
    r2 = xx + yy
    radial, slope = _radial(model, k, r2)
    u, v = x * radial, y * radial
    u_x, v_y, u_y = radial + 2 * xx * slope, radial + 2 * yy * slope, 2 * xy * slope
    v_x = u_y
    if "p1" in k:
        p1, p2 = k["p1"], k["p2"]
        u, v = u + 2 * p1 * xy + p2 * (r2 + 2 * xx), v + 2 * p2 * xy + p1 * (r2 + 2 * yy)
        u_x, v_y = u_x + 2 * p1 * y + 6 * p2 * x, v_y + 2 * p2 * x + 6 * p1 * y
        u_y = v_x = u_y + 2 * (p1 * x + p2 * y)
    if "sx1" in k:
        s, q = k["sx1"], k["sy1"]
        u, v = u + s * r2, v + q * r2
        u_x, u_y, v_x, v_y = u_x + 2 * s * x, u_y + 2 * s * y, v_x + 2 * q * x, v_y + 2 * q * y
    return u, v, (u_x, u_y, v_x, v_y)


def distort(
    model: str, params: Float[Tensor, "*batch p"], n: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 2"]:
    """Measured coordinates of ideal-plane coordinates.

    Args:
        model: A key of `MODELS`.
        params: Distortion in the order of `MODELS`; entries beyond it are ignored.
        n: Ideal-plane coordinates.
    """
    if model in UNDISTORTED:
        return n
    u, v, _ = _distort(model, _named(model, params), *n.unbind(-1))
    return torch.stack([u, v], -1)


@torch.no_grad()
def undistort(
    model: str, params: Float[Tensor, "*batch p"], m: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 2"]:
    """Ideal-plane coordinates of measured coordinates, by Newton's method.

    Ten steps from m; lenses in use need three or four. Where the model folds over (far outside
    the image it was calibrated on) no inverse exists and the last iterate is returned. Not
    differentiable.
    """
    if model in UNDISTORTED:
        return m
    k = _named(model, params)
    if model == "fov":
        omega = torch.where(k["omega"].abs() < 1e-4, 1e-4, k["omega"])
        r = m.norm(dim=-1).clamp(min=1e-9)
        return m * (torch.tan(r * omega) / (2 * torch.tan(omega / 2) * r))[..., None]
    goal_x, goal_y = m.unbind(-1)
    x, y = goal_x, goal_y
    close = 4 * torch.finfo(m.dtype).eps
    for _ in range(NEWTON_STEPS):
        u, v, jacobian = _distort(model, k, x, y)
        dx, dy = _solve(jacobian, goal_x - u, goal_y - v)
        x, y = x + dx, y + dy
        if not m.numel() or float(torch.maximum(dx.abs().max(), dy.abs().max())) < close:
            break
    return torch.stack([x, y], -1)


def _solve(
    jacobian: tuple[Tensor, Tensor, Tensor, Tensor], a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """The 2x2 system; no step where the map is (nearly) singular or folded."""
    u_x, u_y, v_x, v_y = jacobian
    det = u_x * v_y - u_y * v_x
    inverse = torch.where(det > 1e-6, 1 / det, torch.zeros_like(det))
    return (v_y * a - u_y * b) * inverse, (u_x * b - v_x * a) * inverse


@torch.no_grad()
def pixel_steps(
    model: str,
    params: Float[Tensor, "*batch p"],
    n: Float[Tensor, "*batch 2"],
    focal: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 2 2"]:
    """How far n moves for one pixel to the right (row 0) and one pixel down (row 1)."""
    if model in UNDISTORTED:
        return torch.diag_embed(1 / focal)
    _, _, jacobian = _distort(model, _named(model, params), *n.unbind(-1))
    fx, fy = focal.unbind(-1)
    zero = torch.zeros_like(fx)
    right, down = _solve(jacobian, 1 / fx, zero), _solve(jacobian, zero, 1 / fy)
    return torch.stack([torch.stack(right, -1), torch.stack(down, -1)], -2)
