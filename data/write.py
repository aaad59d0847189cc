"""Writers: a loaded scene as NeRF-synthetic, LLFF or COLMAP, in the scene's own world units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from polyfield.data.colmap import Camera, Model, Registered, write_model
from polyfield.data.poses import flip_convention, quaternion_from_rotation
from polyfield.data.scene import PosedImages
from polyfield.errors import InputError
from polyfield.files import replacing, write_json

# ours -> COLMAP's model and the order in which it takes our coefficients
_COLMAP: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "pinhole": ("PINHOLE", ()),
    "opencv": ("OPENCV", (0, 1, 4, 5)),
    "opencv-fisheye": ("OPENCV_FISHEYE", (0, 1, 2, 3)),
    "full-opencv": ("FULL_OPENCV", tuple(range(8))),
    "fov": ("FOV", (0,)),
    "thin-prism-fisheye": ("THIN_PRISM_FISHEYE", tuple(range(8))),
}


def world_poses(scene: PosedImages) -> np.ndarray:
    """(V, 4, 4) float64 camera-to-world poses, OpenGL axes, of all views."""
    poses = np.tile(np.eye(4), (len(scene), 1, 1))
    poses[:, :3] = scene.cameras.c2w.double().cpu().numpy()
    return scene.transform.pose_to_world(poses)


def write_nerf_synthetic(scene: PosedImages, folder: Path) -> None:
    """One ``transforms_<split>.json`` per split, images in folders of that name.

    Raises:
        InputError: The views do not share one centred pinhole camera, or cannot be written.
    """
    intrinsics, size = _one_centred_camera(scene, "NeRF-synthetic")
    poses = world_poses(scene)
    for split, views in scene.splits.items():
        if not views:
            continue
        (folder / split).mkdir(parents=True, exist_ok=True)
        frames = []
        for index, view in enumerate(views):
            save_image(scene, view, folder / split / f"r_{index}.png")
            pose = poses[view].tolist()
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose})
        angle = 2 * math.atan(0.5 * size[0] / intrinsics[0])
        contents = {"camera_angle_x": angle, "frames": frames}
        write_json(folder / f"transforms_{split}.json", contents)


def write_llff(scene: PosedImages, folder: Path) -> None:
    """``poses_bounds.npy`` and ``images``; the split is the format's own, every 8th view.

    Raises:
        InputError: A view has a lens, an off-centre principal point, or cannot be written.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, scale = [], scene.transform.scale
    for view, pose in enumerate(world_poses(scene)):
        fx, width, height = _centred(scene, view, "LLFF")
        right, up, back, position = pose[:3].T
        matrix = np.stack([-up, right, back, position, [height, width, fx]], axis=1)
        bounds = scene.cameras.near[view].item() / scale, scene.cameras.far[view].item() / scale
        rows.append(np.concatenate([matrix.ravel(), bounds]))
        save_image(scene, view, folder / "images" / f"image{view:04d}.png")
    with replacing(folder / "poses_bounds.npy") as temporary:
        np.save(temporary, np.array(rows))


def write_colmap(scene: PosedImages, folder: Path, binary: bool = True) -> None:
    """``sparse/0`` and ``images``, with split lists when the scene holds views out.

    Raises:
        InputError: A camera model that COLMAP has not, or a file cannot be written.
    """
    names = _file_names(scene)
    cameras: dict[Camera, int] = {}
    images = {}
    for view, pose in enumerate(world_poses(scene)):
        camera = _colmap_camera(scene, view)
        number = cameras.setdefault(camera, len(cameras) + 1)
        w2c = np.linalg.inv(flip_convention(pose))
        q, t = quaternion_from_rotation(w2c[:3, :3]), w2c[:3, 3]
        images[view + 1] = Registered(
            names[view], number, tuple(map(float, q)), tuple(map(float, t))
        )
        path = folder / "images" / names[view]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(scene, view, path)
    points = np.zeros((0, 3))
    if scene.points is not None:
        points = scene.transform.to_world(scene.points.double().cpu().numpy())
    model = Model({number: camera for camera, number in cameras.items()}, images, points)
    write_model(folder / "sparse" / "0", model, binary)
    for split in ("train", "test"):
        listed = "".join(f"{names[view]}\n" for view in scene.splits[split])
        with replacing(folder / f"{split}_list.txt") as temporary:
            temporary.write_text(listed, encoding="utf-8")


def save_image(scene: PosedImages, view: int, path: Path) -> None:
    """One view as PNG.

    Raises:
        InputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        Image.fromarray(np.asarray(scene.images.image(view))).save(temporary, format="PNG")


def _file_names(scene: PosedImages) -> list[str]:
    """View names as PNG names, made distinct by their number where they collide."""
    plain = [str(PurePosixPath(name).with_suffix(".png")) for name in scene.names]
    collide = len(set(plain)) < len(plain)
    return [f"{i:05d}_{name}" if collide else name for i, name in enumerate(plain)]


def _colmap_camera(scene: PosedImages, view: int) -> Camera:
    model = scene.cameras.models[view]
    if model not in _COLMAP:
        raise InputError(f"COLMAP has no camera model for '{model}' (view '{scene.names[view]}')")
    name, order = _COLMAP[model]
    lens = scene.cameras.distortion[view].tolist()
    if model == "opencv" and any(lens[2:4]):  # k3, k4: only the rational model has a k3
        raise InputError(f"COLMAP's OPENCV has no k3 and k4 (view '{scene.names[view]}')")
    width, height = scene.cameras.sizes[view].tolist()
    params = (*scene.cameras.intrinsics[view].tolist(), *(lens[i] for i in order))
    return Camera(name, width, height, params)


def _centred(scene: PosedImages, view: int, format: str) -> tuple[float, int, int]:
    """Focal length, width and height of a view without lens, focal the same both ways."""
    fx, fy, cx, cy = scene.cameras.intrinsics[view].tolist()
    width, height = scene.cameras.sizes[view].tolist()
    off = max(abs(fx - fy) / fx, abs(cx - width / 2) / width, abs(cy - height / 2) / height)
    if scene.cameras.models[view] != "pinhole" or off > 1e-5:
        raise InputError(
            f"{format} holds pinhole cameras with one focal length and a centred principal point; "
            f"view '{scene.names[view]}' has another; write COLMAP instead"
        )
    return fx, width, height


def _one_centred_camera(scene: PosedImages, format: str) -> tuple[list[float], tuple[int, int]]:
    cameras = [_centred(scene, view, format) for view in range(len(scene))]
    if any(abs(c[0] / cameras[0][0] - 1) > 1e-5 or c[1:] != cameras[0][1:] for c in cameras):
        raise InputError(f"{format} holds one camera for all views; write COLMAP instead")
    return scene.cameras.intrinsics[0].tolist(), cameras[0][1:]
