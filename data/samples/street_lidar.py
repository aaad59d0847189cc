"""The ``street-lidar`` sample: a drive along a made-up street, simulated when first asked for.

12 sweeps of a 32-ring sensor in `polyfield.data.lidar.street`, with second returns, in a folder of
the image cache; it can be deleted at any time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from polyfield.errors import InputError
from polyfield.registry import register

LAYOUT = 1  # raise when the street, the sensor or the files change


@register("street-lidar", kind="samples", paper="made by Polyfield when first used")
def street_lidar() -> Path:
    """A drive along a street, LiDAR: 12 sweeps of 32 x 512 slots with intensity, two returns.

    Raises:
        InputError: The cache folder cannot be written.
    """
    from polyfield.data.images import cache_folder

    folder = cache_folder() / f"street-lidar-{LAYOUT}"
    if not (folder / "sensor.json").is_file():
        _make(folder)
    return folder


def _make(folder: Path) -> None:
    """Simulate beside the folder and move it there whole: nobody sees half a drive."""
    from polyfield.data.lidar.street_drive import write_street

    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        write_street(temporary / folder.name)
        if folder.is_dir() and not (folder / "sensor.json").is_file():
            shutil.rmtree(folder)  # left of a deletion that was cut short
        os.rename(temporary / folder.name, folder)
    except OSError as error:
        if not (folder / "sensor.json").is_file():  # else another process was faster
            raise InputError(
                f"the sample street-lidar cannot be kept in {folder.parent} "
                f"({error.strerror or error}); set POLYFIELD_CACHE to a folder with room"
            ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
