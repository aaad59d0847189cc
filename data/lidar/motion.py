"""Motion of the sensor during a revolution: who has it in their points, and poses at both ends."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from polyfield.data.lidar.calibrate import SensorFit
from polyfield.data.lidar.poses import interpolate_poses, poses_at, steps_between

_MOVES, _TURNS = 0.02, np.radians(0.1)  # per revolution; less is not worth correcting
_CERTAIN = 4.0  # factor between residuals from which on they tell


def revolution_poses(
    poses: Float[np.ndarray, "sweeps 4 4"], clock: Float[np.ndarray, "sweeps"], at: float
) -> tuple[Float[np.ndarray, "sweeps 4 4"], Float[np.ndarray, "sweeps 4 4"]]:
    """Poses at the start and at the end of every revolution.

    clock: of the poses, in revolutions; at: share of the revolution at which a pose holds.

    Raises:
        InputError: There is one pose only.
    """
    return poses_at(poses, clock, clock - at), poses_at(poses, clock, clock + 1 - at)


def skewed(
    poses: Float[np.ndarray, "sweeps 4 4"],
    clock: Float[np.ndarray, "sweeps"],
    fit: SensorFit,
    timed: bool,
) -> tuple[bool, str]:
    """Whether points should get a pose of their own, and why.

    Points as fired lie on their rings' cones whatever the motion; moved to one instant by a
    compensation they do not. So a fit far closer than compensated points could give proves that
    they are as fired, and one as loose as that speaks for a compensation.

    timed: times of sweeps or points are known.
    """
    if len(poses) < 2:
        return False, "one sweep tells nothing of motion"
    moved, turned = steps_between(poses)
    gaps = np.maximum(np.diff(clock), 1e-9)
    move, turn = float(np.median(moved / gaps)), float(np.median(turned / gaps))
    motion = f"the sensor moves {move:.3g} m and turns {np.degrees(turn):.3g} degrees a revolution"
    if move < _MOVES and turn < _TURNS:
        return False, f"{motion}: not worth correcting"
    expected = compensation_residual(fit, move)
    seen = f"rings fit to {1e3 * fit.residual:.2g} mm"
    if expected > _CERTAIN * fit.residual:
        raw = f"{motion}, yet {seen}: the points are as fired"
        if timed:
            return True, raw
        return False, f"{raw}; no times are known, set data.deskew=true to correct them"
    if fit.residual > expected / 2 and move > 10 * _MOVES:
        return False, f"{motion} and {seen}: the points seem to be compensated"
    return timed, f"{motion}" if timed else f"{motion}; no times are known"


def compensation_residual(fit: SensorFit, move: float) -> float:
    """Residual that a compensation of `move` metres a revolution would leave about the rings'
    lines: points shift along the motion by up to half of it, on a cone of slope tan(e)."""
    slope = np.sqrt(np.mean(np.square(np.tan(fit.sensor.elevations))))
    return float(move * slope / np.sqrt(24))


def deskew(
    points: Float[np.ndarray, "n 3"],
    times: Float[np.ndarray, "n"],
    start: Float[np.ndarray, "4 4"],
    end: Float[np.ndarray, "4 4"],
    reference: float = 0.0,
) -> Float[np.ndarray, "n 3"]:
    """Points as fired, moved to where the sensor would have seen them at one time of the sweep.

    p' = T(reference)^-1 T(s) p with poses T between `start` and `end`; s: `times`, shares of the
    revolution.
    """
    world = move_points(points, interpolate_poses(start, end, times))
    fixed = interpolate_poses(start, end, np.array(reference))
    return (world - fixed[:3, 3]) @ fixed[:3, :3]


def move_points(
    points: Float[np.ndarray, "n 3"], poses: Float[np.ndarray, "*#n 4 4"]
) -> Float[np.ndarray, "n 3"]:
    """Points by one pose, or each by its own."""
    return np.einsum("...ij,...j->...i", poses[..., :3, :3], points) + poses[..., :3, 3]
