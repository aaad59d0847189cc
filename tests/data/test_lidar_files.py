"""Files of sweeps: what is written comes back bit for bit; what is damaged is named."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfield.data.lidar.files import bin_layout, read_sweep, write_sweep
from polyfield.data.lidar.sweeps import PointSweep
from polyfield.errors import InputError, MissingDependencyError


def sweep(count: int = 50, extra: bool = True, seed: int = 0) -> PointSweep:
    generator = np.random.default_rng(seed)
    points = generator.normal(0, 20, (count, 3)).astype(np.float32)
    intensity = generator.integers(0, 100, count).astype(np.float32) / 100
    if not extra:
        return PointSweep(points, intensity)
    ring = generator.integers(0, 32, count)
    times = np.sort(generator.uniform(0, 1, count)).astype(np.float32)
    return PointSweep(points, intensity, ring, times, 1 + (ring % 2))


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(
        np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8)
    )


@pytest.mark.parametrize("suffix", [".bin", ".ply", ".pcd", ".npz"])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_round_trips_are_bit_exact(tmp_path, suffix, count):
    written = sweep(count, extra=suffix != ".bin")
    if count:
        written.points[0] = [np.nan, -0.0, 1e-40]
    path = tmp_path / f"a{suffix}"
    write_sweep(written, path)
    if suffix == ".bin" and count == 0:
        with pytest.raises(InputError, match="empty"):
            read_sweep(path)
        return
    read = read_sweep(path, 4)
    same_bits(read.points, written.points)
    same_bits(read.intensity, written.intensity)
    for name in ("ring", "number"):
        stored, expected = getattr(read, name), getattr(written, name)
        assert (stored is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(stored, expected)
    if written.times is not None:
        same_bits(read.times, written.times)
    assert list(tmp_path.iterdir()) == [path]


def test_sizes_are_header_and_packed_floats(tmp_path):
    plain = sweep(50, extra=False)
    for suffix in (".bin", ".ply", ".pcd"):
        write_sweep(plain, tmp_path / f"a{suffix}")
        data = (tmp_path / f"a{suffix}").read_bytes()
        head = {".bin": b"", ".ply": b"end_header\n", ".pcd": b"DATA binary\n"}[suffix]
        assert len(data) - (data.index(head) + len(head)) == 16 * 50


def test_a_nuscenes_file_has_five_numbers_the_ring_last(tmp_path):
    written = sweep(64)
    path = tmp_path / "a.pcd.bin"
    write_sweep(written, path)
    assert path.stat().st_size == 20 * 64
    read = read_sweep(path)
    np.testing.assert_array_equal(read.ring, written.ring)
    same_bits(read.points, written.points)
    assert bin_layout([path]).columns == 5


def test_the_sizes_of_a_folder_decide_between_four_and_five(tmp_path):
    for i, count in enumerate((40, 41, 45)):
        write_sweep(sweep(count, extra=False, seed=i), tmp_path / f"{i}.bin")
        write_sweep(sweep(count, seed=i), tmp_path / f"{i}.pcd.bin")
    four = sorted(tmp_path.glob("?.bin"))
    five = sorted(tmp_path.glob("*.pcd.bin"))
    assert bin_layout(four).columns == 4 and bin_layout(five).columns == 5
    assert "16" in bin_layout(four).why


@pytest.mark.parametrize("columns", [4, 5])
def test_values_decide_where_both_sizes_fit(tmp_path, columns):
    path = tmp_path / ("a.bin" if columns == 4 else "a.pcd.bin")
    write_sweep(sweep(40, extra=columns == 5), path)
    assert path.stat().st_size % 80 == 0
    assert bin_layout([path]).columns == columns


@pytest.mark.parametrize("cut", [1, 4, 17])
def test_files_that_are_cut_off_say_so(tmp_path, cut):
    for suffix in (".bin", ".ply", ".pcd", ".npz"):
        path = tmp_path / f"a{suffix}"
        write_sweep(sweep(50, extra=suffix != ".bin"), path)
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(InputError, match=rf"a\{suffix}.*copy it again"):
            read_sweep(path)


def test_a_truncated_bin_among_whole_ones_is_named_with_its_size(tmp_path):
    paths = [tmp_path / f"{i}.bin" for i in range(4)]
    for i, path in enumerate(paths):
        write_sweep(sweep(50 + i, extra=False), path)
    paths[2].write_bytes(paths[2].read_bytes()[:-3])
    with pytest.raises(InputError, match=rf"2\.bin has {52 * 16 - 3} bytes.*multiple of 16"):
        bin_layout(paths)


ASCII = """ply
format ascii 1.0
comment from a tool
element vertex 2
property double x
property double y
property double z
property uchar reflectance
property float time
element face 1
property list uchar int vertex_indices
end_header
1 2 3 255 0.25
-1.5 0 nan 0 0.5
3 0 1 0
"""


def test_text_ply_with_other_names_and_elements(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text(ASCII)
    read = read_sweep(path)
    np.testing.assert_array_equal(read.points, [[1, 2, 3], [-1.5, 0, np.nan]])
    assert read.points.dtype == np.float64 and read.intensity.tolist() == [255, 0]
    assert read.times.tolist() == [0.25, 0.5] and read.ring is None


def test_big_endian_ply(tmp_path):
    rows = np.array(
        [(1, 2, 3, 7), (4, 5, 6, 9)], dtype=[*((n, ">f4") for n in "xyz"), ("ring", ">u2")]
    )
    head = "ply\nformat binary_big_endian 1.0\nelement vertex 2\n"
    head += "".join(f"property float {n}\n" for n in "xyz") + "property ushort ring\nend_header\n"
    path = tmp_path / "a.ply"
    path.write_bytes(head.encode() + rows.tobytes())
    read = read_sweep(path)
    np.testing.assert_array_equal(read.points, [[1, 2, 3], [4, 5, 6]])
    assert read.ring.tolist() == [7, 9] and read.points.dtype == np.float32


def test_text_pcd_and_fields_of_several_numbers(tmp_path):
    path = tmp_path / "a.pcd"
    path.write_text(
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z normal intensity\nSIZE 4 4 4 4 4\nTYPE F F F F F\n"
        "COUNT 1 1 1 3 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA ascii\n"
        "1 2 3 0 0 1 0.5\n4 5 6 0 1 0 0.25\n"
    )
    read = read_sweep(path)
    np.testing.assert_array_equal(read.points, [[1, 2, 3], [4, 5, 6]])
    assert read.intensity.tolist() == [0.5, 0.25]


def test_compressed_pcd_needs_open3d_or_a_conversion(tmp_path):
    if importlib.util.find_spec("open3d") is not None:
        pytest.skip("open3d is installed")
    path = tmp_path / "a.pcd"
    write_sweep(sweep(5), path)
    path.write_bytes(path.read_bytes().replace(b"DATA binary", b"DATA binary_compressed"))
    with pytest.raises(MissingDependencyError, match=r"open3d.*polyfield\[mesh\].*uncompressed"):
        read_sweep(path)


def test_arrays_without_names(tmp_path):
    rows = np.hstack([sweep(9).points, np.full((9, 1), 0.5, np.float32)])
    np.save(tmp_path / "a.npy", rows)
    same_bits(read_sweep(tmp_path / "a.npy").points, rows[:, :3])
    np.save(tmp_path / "b.npy", np.zeros((4, 2)))
    with pytest.raises(InputError, match=r"shape \(4, 2\)"):
        read_sweep(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"xyz": np.zeros((2, 3))}, "no array 'points' .it has xyz"),
        ({"points": np.zeros((2, 2))}, r"shape \(2, 2\)"),
        ({"points": np.zeros((2, 3)), "ring": np.zeros(3, int)}, r"ring has shape \(3,\)"),
        ({"points": np.array([["a"] * 3])}, "no numbers"),
    ],
)
def test_arrays_that_fit_nothing(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read_sweep(tmp_path / "a.npz")


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read_sweep(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.ply", "solid\n", "no PLY file"),
        ("a.ply", ASCII.replace("ascii 1.0", "text 1.0"), "format 'text'"),
        ("a.ply", ASCII.replace("property double x", "property list uchar float x"), "list uchar"),
        ("a.ply", ASCII.replace("property double x\n", ""), "5 numbers, expected 4"),
        ("a.ply", ASCII.replace("uchar reflectance", "uchar x"), "each once"),
        ("a.ply", ASCII.replace("1 2 3 255 0.25", "1 2 three 255 0.25"), "cannot be read.*three"),
        ("a.ply", ASCII.replace("element vertex 2", "element vertex 9"), "of 9 points"),
        ("a.pcd", "VERSION 0.7\nFIELDS x y z\n", "no DATA"),
        ("a.pcd", "FIELDS x y\nSIZE 4\nTYPE F F\nPOINTS 1\nDATA ascii\n1 2\n", "2, 1, 2 and 2"),
        ("a.pcd", "FIELDS x\nSIZE 3\nTYPE F\nPOINTS 1\nDATA ascii\n1\n", "f3"),
        ("a.pcd", "FIELDS x y\nSIZE 4 4\nTYPE F F\nPOINTS 1\nDATA ascii\n1 2\n", "has no z"),
        ("a.las", "LASF", "no known format"),
    ],
)
def test_damaged_headers_say_what_is_wrong(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_sweep(path)


@given(cut=st.integers(0, 700), suffix=st.sampled_from([".ply", ".pcd", ".npz"]))
def test_no_cut_makes_a_traceback(tmp_path_factory, cut, suffix):
    folder = tmp_path_factory.mktemp("cut")
    write_sweep(sweep(12), folder / f"a{suffix}")
    data = (folder / f"a{suffix}").read_bytes()
    (folder / f"b{suffix}").write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises((InputError, MissingDependencyError)):
        read_sweep(folder / f"b{suffix}")


@given(
    at=st.integers(0, 3000),
    value=st.integers(0, 255),
    suffix=st.sampled_from([".ply", ".pcd", ".npz"]),
)
def test_no_changed_byte_makes_a_traceback(tmp_path_factory, at, value, suffix):
    folder = tmp_path_factory.mktemp("changed")
    write_sweep(sweep(12), folder / f"a{suffix}")
    data = bytearray((folder / f"a{suffix}").read_bytes())
    data[at % len(data)] = value
    (folder / f"b{suffix}").write_bytes(data)
    with contextlib.suppress(InputError, MissingDependencyError):
        read_sweep(folder / f"b{suffix}")


def test_unknown_suffixes_are_not_written(tmp_path):
    with pytest.raises(InputError, match=r"use one of \.bin"):
        write_sweep(sweep(3), tmp_path / "a.xyz")
