"""Rings of sweeps as they are read: a file's numbers, or what calibration found, as table rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polyfield.data.lidar.calibrate import SensorFit, nearest_rings, refine_rings, rings_by_wraps
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.errors import InputError
from polyfield.renderers.lidar_sensors import SpinningLidar

LARGEST_DIFFERENCE = np.radians(1.0)  # between a ring and the table's beam that it is taken for


@dataclass(frozen=True)
class RingLabels:
    """Gives sweeps the rings of a table.

    Raises:
        InputError: A ring is far from every beam of the table, or two are one beam.
    """

    fit: SensorFit
    sensor: SpinningLidar

    def __post_init__(self) -> None:
        self._rows()

    def _rows(self) -> dict[int, int]:
        """Label -> row of the table."""
        if self.sensor.elevations == self.fit.sensor.elevations:
            return {label: row for row, label in enumerate(self.fit.labels)}
        beams = np.array(self.sensor.elevations)
        found = np.array(self.fit.sensor.elevations)
        rows = np.abs(found[:, None] - beams).argmin(axis=1)
        off = np.abs(found - beams[rows])
        worst = int(off.argmax())
        if off[worst] > LARGEST_DIFFERENCE or len(set(rows.tolist())) < len(rows):
            raise InputError(
                f"the sweeps have {len(found)} rings from {np.degrees(found.max()):.4g} to "
                f"{np.degrees(found.min()):.4g} degrees, which are not the {len(beams)} beams from "
                f"{np.degrees(beams.max()):.4g} to {np.degrees(beams.min()):.4g} degrees of "
                f"'{self.sensor.name}'; leave data.sensor out to fit the table to the data"
            )
        return dict(zip(self.fit.labels, rows.tolist(), strict=True))

    def apply(self, sweep: PointSweep) -> PointSweep:
        """The sweep with the table's rings."""
        if sweep.ring is not None:
            return replace(sweep, ring=self._mapped(sweep))
        rings = rings_by_wraps(sweep.points)
        if rings is not None and rings.max() + 1 == len(self.fit.labels) == self.sensor.rings:
            # the file's order of rings is top to bottom, or the reverse
            rows = self._rows()
            rings = refine_rings(sweep.points, rings)
            table = np.array([rows[label] for label in range(len(rows))])
            return replace(sweep, ring=table[rings])
        return replace(sweep, ring=nearest_rings(sweep.points, self.sensor))

    def _mapped(self, sweep: PointSweep) -> np.ndarray:
        rows = self._rows()
        table = np.full(max(max(rows), int(sweep.ring.max())) + 1, -1, np.int64)
        table[list(rows)] = list(rows.values())
        rings = np.where(sweep.ring >= 0, table[sweep.ring], -1)
        unknown = rings < 0
        if unknown.any():
            rings[unknown] = nearest_rings(sweep.points[unknown], self.sensor)
        return rings
