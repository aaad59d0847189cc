"""Bad sweeps: each is answered as documented, in one sentence with file, value and remedy."""

from __future__ import annotations

import numpy as np
import pytest

from polyfield.data.lidar.load import LidarOptions, load_sweeps
from polyfield.errors import InputError, PolyfieldError


def rows_of(folder, index=1):
    path = folder / "velodyne" / f"{index:06d}.bin"
    return path, np.fromfile(path, "<f4").reshape(-1, 4)


def changed(edit, index=1):
    """An edit of a drive's folder that changes the rows of one sweep."""

    def apply(folder):
        path, rows = rows_of(folder, index)
        result = edit(rows)
        (rows if result is None else result).astype("<f4").tofile(path)

    return apply


def poses_changed(edit):
    def apply(folder):
        lines = (folder / "poses.txt").read_text().splitlines()
        (folder / "poses.txt").write_text("\n".join(edit(lines)) + "\n")

    return apply


def cut(folder):
    path, _ = rows_of(folder)
    path.write_bytes(path.read_bytes()[:-5])


def nan_points(rows):
    rows[: int(0.6 * len(rows)), 0] = np.nan


def world_sized(rows):
    rows[:, 0] += 5e5


def off_cones(rows):
    rows[:, 2] += np.random.default_rng(0).normal(0, 1, len(rows))


def scaled(lines):
    words = [float(word) for word in lines[2].split()]
    return [*lines[:2], " ".join(str(1.1 * word) for word in words), *lines[3:]]


def mirrored(lines):
    words = lines[2].split()
    for i in (1, 5, 9):
        words[i] = str(-float(words[i]))
    return [*lines[:2], " ".join(words), *lines[3:]]


def times(values):
    def apply(folder):
        np.savetxt(folder / "times.txt", values)

    return apply


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (cut, r"000001\.bin has \d+ bytes.*multiple of 16.*copy it again"),
        (changed(lambda rows: rows[:0]), r"000001\.bin is empty"),
        (changed(nan_points), r"000001\.bin: \d+ of \d+ points are not finite"),
        (changed(lambda rows: 0 * rows), r"000001\.bin has no return between"),
        (changed(world_sized), r"more than 1000 m.*sensor's frame"),
        (changed(lambda rows: 0.001 * rows), r"no return.*data\.nearest"),
        (poses_changed(lambda lines: lines[:-1]), r"5 poses, but there are 6 sweeps"),
        (poses_changed(lambda lines: [*lines, lines[-1]]), r"7 poses, but there are 6 sweeps"),
        (poses_changed(scaled), r"poses\.txt, line 3.*no rotation"),
        (poses_changed(mirrored), r"poses\.txt, line 3.*determinant -1"),
        (poses_changed(lambda lines: ["nan " * 12, *lines[1:]]), "line 1.*not finite"),
        (poses_changed(lambda lines: []), "holds no poses"),
        (lambda folder: (folder / "poses.txt").unlink(), r"6 sweeps and no poses.*poses\.txt"),
        (times([0, 0.1, 0.3, 0.2, 0.4, 0.5]), r"time 3 .*does not come after"),
        (times([0, 0.1, 0.2]), r"3 times, but there are 6 sweeps"),
    ],
)
def test_refusals(drive, edit, said):
    with pytest.raises(InputError, match=said):
        load_sweeps(drive(edit=edit))


def test_returns_on_no_cones_are_refused(drive):
    def edit(folder):
        for i in range(6):
            changed(off_cones, i)(folder)

    with pytest.raises(PolyfieldError, match=r"cones|cannot be told"):
        load_sweeps(drive(edit=edit))


def test_a_few_bad_points_are_left_out_and_counted(drive):
    def some(rows):
        rows[:3, 1] = np.inf
        rows[3:5, :3] = 0
        rows[5, :3] *= 0.1 / np.linalg.norm(rows[5, :3])
        rows[6, :3] *= 500 / np.linalg.norm(rows[6, :3])

    scene = load_sweeps(drive(edit=changed(some)))
    assert scene.report.notes["dropped"] == {
        "not finite": 3, "all zero": 2, "nearer than 0.5 m": 1, "farther than 200 m": 1,
    }  # fmt: skip
    whole = load_sweeps(drive(name="whole"))
    assert len(whole.read(1)) - len(scene.read(1)) == 7
    assert any("3 of" in warning and "not finite" in warning for warning in scene.report.warnings)


@pytest.mark.parametrize("unit", [255, 65535])
def test_intensities_in_bytes_or_words_become_shares(drive, unit):
    def edit(folder):
        for i in range(6):
            changed(lambda rows: rows * [1, 1, 1, unit], i)(folder)

    scene = load_sweeps(drive(edit=edit))
    expected = load_sweeps(drive(name="whole")).read(2).intensity
    np.testing.assert_allclose(scene.read(2).intensity, expected, atol=1e-6)
    assert scene.report.notes["intensity_unit"] == unit


def test_ranges_outside_the_options_are_dropped(drive):
    scene = load_sweeps(drive(), LidarOptions(nearest=5.0, farthest=12.0))
    ranges = np.linalg.norm(scene.read(0).points, axis=1)
    assert ranges.min() >= 5 and ranges.max() <= 12
    assert scene.report.notes["dropped"].keys() == {"nearer than 5 m", "farther than 12 m"}


def test_leaps_of_the_poses_are_warned_of(drive):
    def edit(lines):
        words = lines[3].split()
        words[3] = "80.0"
        return [*lines[:3], " ".join(words), *lines[4:]]

    scene = load_sweeps(drive(edit=poses_changed(edit)))
    assert any("leaps" in w and "000003.bin" in w for w in scene.report.warnings)


def test_rotations_of_few_digits_are_straightened_with_a_note(drive):
    def edit(lines):
        return [" ".join(f"{float(word):.5f}" for word in line.split()) for line in lines]

    scene = load_sweeps(drive(edit=poses_changed(edit)))
    assert any("straightened" in warning for warning in scene.report.warnings)


def test_paths_that_hold_no_sweeps(tmp_path, capture):
    with pytest.raises(InputError, match="does not exist"):
        load_sweeps(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no LiDAR sweeps.*velodyne/"):
        load_sweeps(capture())


def test_a_sweep_damaged_after_loading_is_named_when_it_is_read(drive):
    scene = load_sweeps(drive())
    path, _ = rows_of(scene.root, 4)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"000004\.bin"):
        scene.read(4)
