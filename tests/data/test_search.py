"""Finding the image a scene file means."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyfield.data.search import Finder, declared_path, image_files, natural_key


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ("images/a.png", "images/a.png"),
        ("images/a", "images/a.png"),
        ("images/a", "images/a.JPG"),
        ("images/a.jpg", "images/A.JPG"),
        ("images/a.png", "images/a.jpg"),
        ("images\\a.png", "images/a.png"),
        ("./images/a.png", "images/a.png"),
        ("/home/someone/capture/images/a.png", "images/a.png"),
        ("C:\\capture\\images\\a.png", "images/a.png"),
        ("frames/a.png", "images/a.png"),
        ("frames/deep/a", "input/a.webp"),
        ("images/v1.2_shot", "images/v1.2_shot.png"),
    ],
)
def test_quirks_of_paths_are_followed(tmp_path, said, there):
    expected = touch(tmp_path / there)
    hit = Finder(tmp_path).find(declared_path(tmp_path, said))
    assert hit is not None and hit.path == expected and hit.factor == 1


def test_a_missing_image_is_not_replaced_by_a_namesake_elsewhere(tmp_path):
    touch(tmp_path / "test" / "r_0.png")
    touch(tmp_path / "train" / "r_1.png")
    assert Finder(tmp_path).find(tmp_path / "train" / "r_0") is None


def test_a_text_file_of_the_same_name_is_no_image(tmp_path):
    touch(tmp_path / "images" / "a.txt")
    assert Finder(tmp_path).find(tmp_path / "images" / "a") is None


@pytest.mark.parametrize(
    ("downscale", "folders", "used", "factor"),
    [
        (1, ("images", "images_2", "images_4"), "images", 1),
        (2, ("images", "images_2", "images_4"), "images_2", 2),
        (8, ("images", "images_2", "images_4"), "images_4", 4),
        (3, ("images", "images_2", "images_4"), "images", 1),
        (1, ("images_4", "images_8"), "images_4", 4),
        (8, ("images_4", "images_8"), "images_8", 8),
    ],
)
def test_ready_made_smaller_images_are_used(tmp_path, downscale, folders, used, factor):
    for folder in folders:
        touch(tmp_path / folder / "a.jpg")
    hit = Finder(tmp_path, downscale).find(tmp_path / "images" / "a.jpg")
    assert (hit.path.parent.name, hit.factor) == (used, factor)


def test_names_sort_by_their_numbers():
    assert sorted(["r_10", "r_2", "R_1"], key=natural_key) == ["R_1", "r_2", "r_10"]


def test_only_visible_images_are_listed(tmp_path):
    for name in ("b.jpg", "a.PNG", ".hidden.png", "notes.txt"):
        touch(tmp_path / name)
    assert [p.name for p in image_files(tmp_path)] == ["a.PNG", "b.jpg"]
    assert image_files(tmp_path / "nowhere") == []
