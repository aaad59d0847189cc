"""Mesh files, through trimesh: triangles in, triangles out."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from polyfield.errors import InputError
from polyfield.files import replacing

SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
WRITES = (".obj", ".ply", ".stl", ".off", ".glb")
_FAULTS = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError,
    NotImplementedError, ImportError, struct.error,
)  # fmt: skip  # what parsers of damaged files raise


def read_mesh(path: Path) -> tuple[Float64[np.ndarray, "v 3"], Int64[np.ndarray, "f 3"]]:
    """Vertices in the file's units and triangles; parts of a scene are joined.

    Raises:
        InputError: The file cannot be read, has no faces, or has a corner that is no number.
    """
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False)
        mesh = scene.to_mesh()
        vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3)
        faces = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
        points = sum(len(getattr(part, "vertices", ())) for part in scene.geometry.values())
    except _FAULTS as error:
        raise InputError(
            f"mesh {path} cannot be read ({error or type(error).__name__}); check that it is "
            "whole, or export it again as .ply or .obj"
        ) from error
    if not len(faces) and not points:
        raise InputError(
            f"mesh {path} cannot be read: no point and no face was found in it; check that it is "
            "whole, or export it again as .ply or .obj"
        )
    if not len(faces):
        raise InputError(
            f"mesh {path} has {points} points and no faces: a shape needs a surface; reconstruct "
            "one, for example with Poisson reconstruction in MeshLab"
        )
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(
            f"mesh {path}: a face names vertex {faces.max()}, but there are {len(vertices)}; "
            "export it again"
        )
    used = np.unique(faces)
    bad = used[~np.isfinite(vertices[used]).all(axis=1)]
    if len(bad):
        raise InputError(
            f"mesh {path}: vertex {bad[0]} is {vertices[bad[0]].tolist()} ({len(bad)} such), "
            "expected finite numbers; export it again"
        )
    return vertices, faces


def write_mesh(
    vertices: Float64[np.ndarray, "v 3"], faces: Int64[np.ndarray, "f 3"], out: Path
) -> None:
    """Write triangles; the suffix says the format.

    Raises:
        InputError: The file cannot be written.
    """
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    with replacing(out) as temporary:
        mesh.export(temporary, file_type=out.suffix.lower().lstrip("."))


def open_edges(vertices: Float64[np.ndarray, "v 3"], faces: Int64[np.ndarray, "f 3"]) -> int:
    """How many edges belong to one triangle only: the rims of holes. Corners in one place count
    as one."""
    _, same = np.unique(vertices, axis=0, return_inverse=True)
    corners = same.reshape(-1)[faces]
    edges = np.sort(corners[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges = edges[edges[:, 0] != edges[:, 1]]
    _, count = np.unique(edges, axis=0, return_counts=True)
    return int((count == 1).sum())
