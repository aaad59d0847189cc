"""Numbered pixels and their colours, by the reference and by kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyfield import backend
from polyfield.data.images import RaggedStore
from polyfield.data.pixels import Windows, centre_windows, locate_pixels

SIZES = np.array([[5, 3], [2, 4], [1, 1], [40, 70]])


@pytest.fixture(params=[("torch", 1), ("numba", 1), ("numba", 2)])
def either(request):
    name, threads = request.param
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with backend.using(name):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.01])
def test_numbers_run_through_the_windows_row_by_row(either, fraction):
    views = np.array([7, 3, 5, 4])
    windows = centre_windows(views, SIZES, fraction)
    naive = [
        (view, x, y)
        for view, (column, row), (width, height) in zip(
            views, windows.starts, windows.sizes, strict=True
        )
        for y in range(row, row + height)
        for x in range(column, column + width)
    ]
    found = locate_pixels(np.arange(windows.ends[-1]), windows)
    assert list(zip(*(v.tolist() for v in found), strict=True)) == naive


def test_windows_lie_in_the_middle():
    windows = centre_windows(np.arange(4), SIZES, 0.5)
    assert windows.sizes.tolist() == [[2, 2], [1, 2], [1, 1], [20, 35]]
    assert windows.starts.tolist() == [[1, 0], [0, 1], [0, 0], [10, 17]]
    assert windows.ends.tolist() == [4, 6, 7, 707]


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_are_the_bytes_over_255(either, channels):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (int(SIZES.prod(1).sum()), channels), np.uint8)
    data.flags.writeable = False  # as mapped files are
    store = RaggedStore(data, SIZES).select([3, 0])
    places = np.array([0] * 3000 + [1] * 5), rng.integers(0, 5, 3005), rng.integers(0, 3, 3005)
    found = store.colours(*places)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :channels], store.pixels(*places) / np.float32(255))
    assert channels == 4 or (found[:, 3] == 1).all()


def test_none_are_none(either):
    empty = np.zeros(0, np.int64)
    windows = Windows(empty, np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), empty)
    assert [len(v) for v in locate_pixels(empty, windows)] == [0, 0, 0]
    assert RaggedStore(np.zeros((15, 3), np.uint8), SIZES[:1]).colours(*[empty] * 3).shape == (0, 4)


@pytest.mark.parametrize("place", [(1, 0, 0), (0, 0, 3), (-2, 0, 0)])
def test_pixels_that_are_not_there_are_refused(either, place):
    store = RaggedStore(np.zeros((15, 3), np.uint8), SIZES[:1])
    with pytest.raises(IndexError):
        store.colours(*(np.array([v]) for v in place))
