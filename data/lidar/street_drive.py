"""Driving a LiDAR along a street: poses, sweeps of slots, and the returns a file would hold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.data.lidar.files import write_sweep
from polyfield.data.lidar.poses import interpolate_poses
from polyfield.data.lidar.street import Street, make_street
from polyfield.data.lidar.street_beam import Echoes, Pulse
from polyfield.data.lidar.sweeps import PointSweep, SweepRays
from polyfield.files import replacing, write_json
from polyfield.renderers.lidar_sensors import SpinningLidar

SENSOR_HEIGHT = 1.73  # metres over the ground
LANE = -1.2  # y of the middle of the drive


def street_sensor(columns: int = 512) -> SpinningLidar:
    """32 rings from 10.67 to -30.67 degrees (those of an HDL-32E), `columns` firings."""
    elevations = tuple(math.radians(10.67 - 41.34 * ring / 31) for ring in range(32))
    none = (0.0,) * 32
    return SpinningLidar("street-32", elevations, none, none, columns, farthest=80.0)


def drive(sweeps: int, step: float = 1.5) -> Float[np.ndarray, "sweeps 4 4"]:
    """Poses (sensor -> world) `step` metres apart: swaying in the lane, turning, nodding."""
    poses = np.tile(np.eye(4), (sweeps, 1, 1))
    for index, pose in enumerate(poses):
        phase = 2 * math.pi * index / 11
        yaw, pitch = 0.06 * math.cos(phase), math.radians(0.5) * math.sin(1.7 * phase)
        roll = math.radians(0.4) * math.sin(0.6 * phase)
        pose[:3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
        pose[:3, 3] = step * index, LANE + 0.4 * math.sin(phase), SENSOR_HEIGHT
    return poses


def _turn(axis: int, angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[a, a], turn[b, b], turn[a, b], turn[b, a] = c, c, -s, s
    return turn


@dataclass(frozen=True)
class Scanned:
    """One revolution: all slots, ring after ring, with what came back; poses at each firing.

    second_intensity: of the second return, 0 without one.
    """

    rays: SweepRays
    second_intensity: Float[Tensor, "n"]
    normals: Float[Tensor, "n 3"]
    poses: Float[Tensor, "n 4 4"]

    def returns(self, times: bool = True) -> PointSweep:
        """What a file holds: points in the sensor's frame at their firing, first returns in the
        order of the slots, then the second ones."""
        rays, parts = self.rays, []
        for number, ranges, intensity in (
            (1, rays.ranges, rays.intensity),
            (2, rays.second, self.second_intensity),
        ):
            hit = ~torch.isnan(ranges)
            world = rays.origins[hit] + ranges[hit, None] * rays.directions[hit]
            turns, places = self.poses[hit, :3, :3], self.poses[hit, :3, 3]
            local = torch.einsum("nji,nj->ni", turns, world - places)
            which = torch.full_like(rays.ring[hit], number)
            parts.append((local, intensity[hit], rays.ring[hit], rays.times[hit], which))
        joined = [torch.cat(part).numpy() for part in zip(*parts, strict=True)]
        points, intensity, ring, shares, number = joined
        return PointSweep(points, intensity, ring, shares if times else None, number)


def scan(
    street: Street,
    sensor: SpinningLidar,
    pose: Float[np.ndarray, "4 4"],
    end: Float[np.ndarray, "4 4"] | None = None,
    pulse: Pulse | None = None,
    generator: torch.Generator | None = None,
) -> Scanned:
    """One revolution of a sensor in a street.

    Args:
        street: Where it is.
        sensor: Its slots, range limits and divergence.
        pose: Sensor -> world at the start.
        end: At the end; the sensor does not move without it.
        pulse: Instead of the one the sensor's divergence and limits give.
        generator: Draws the noise; exact without.
    """
    pulse = pulse or pulse_of(sensor)
    beams = sensor.beams()
    shares = beams.times.numpy()
    poses = torch.from_numpy(interpolate_poses(pose, pose if end is None else end, shares))
    origins = torch.einsum("nij,nj->ni", poses[:, :3, :3], beams.origins) + poses[:, :3, 3]
    directions = torch.einsum("nij,nj->ni", poses[:, :3, :3], beams.directions)
    echoes: Echoes = street.cast(origins, directions, pulse, generator)
    seen = (echoes.ranges, echoes.second, echoes.intensity)
    rays = SweepRays(origins, directions, *seen, beams.ring, beams.times)
    return Scanned(rays, echoes.second_intensity, echoes.normals, poses)


def pulse_of(sensor: SpinningLidar) -> Pulse:
    """A pulse with the divergence and range limits of a sensor."""
    return Pulse(sensor.divergence, nearest=sensor.nearest, farthest=sensor.farthest)


def write_street(
    folder: Path,
    sweeps: int = 12,
    columns: int = 512,
    seed: int = 0,
    motion: bool = False,
) -> None:
    """Write a drive as a folder: ``velodyne/*.npz``, ``poses.txt``, ``sensor.json``.

    Poses are 12 numbers a line, row by row, sensor -> world. Without motion every sweep is taken
    from where it starts, and points carry no times.

    Raises:
        InputError: The folder cannot be written.
    """
    street, sensor = make_street(seed), street_sensor(columns)
    generator = torch.Generator().manual_seed(seed)
    poses = drive(sweeps + 1)
    (folder / "velodyne").mkdir(parents=True, exist_ok=True)
    for index in range(sweeps):
        end = poses[index + 1] if motion else None
        scanned = scan(street, sensor, poses[index], end, generator=generator)
        write_sweep(_small(scanned.returns(times=motion)), folder / "velodyne" / f"{index:06d}.npz")
    lines = [" ".join(repr(float(v)) for v in pose[:3].ravel()) for pose in poses[:sweeps]]
    with replacing(folder / "poses.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "sensor.json", asdict(sensor))


def _small(sweep: PointSweep) -> PointSweep:
    """The same in float32."""
    fewer = {"points": sweep.points, "intensity": sweep.intensity, "times": sweep.times}
    return replace(sweep, **{k: v.astype(np.float32) for k, v in fewer.items() if v is not None})
