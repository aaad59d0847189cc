"""The store: ragged, memory-mapped, cached, rebuilt when damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polyfield.data.images import Plan, RaggedStore, cache_folder, find_store, open_store
from polyfield.errors import InputError

SIZES = ((5, 3), (2, 4), (1, 1))


class Source:
    """Distinct pixels per view, counting how often it is asked."""

    def __init__(self, dtype=np.uint8, channels=3, fail_at=None):
        self.calls, self.fail_at = 0, fail_at
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (h, w, channels)).astype(dtype) for w, h in SIZES]
        self.plan = Plan("key", SIZES, channels, dtype, self.make)

    def make(self, index):
        self.calls += 1
        if index == self.fail_at:
            raise InputError("image 2.png cannot be read")
        return self.images[index], {"view": index}


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 4), (np.float32, 1)])
def test_images_of_different_sizes_come_back(dtype, channels):
    source = Source(dtype, channels)
    store, warning = open_store(source.plan)
    assert warning is None and len(store) == 3 and store.channels == channels
    for view, image in enumerate(source.images):
        np.testing.assert_array_equal(store.image(view), image)
    assert store.nbytes == sum(i.nbytes for i in source.images) == store.path.stat().st_size
    assert [f["view"] for f in store.figures] == [0, 1, 2]


def test_pixels_agree_with_images():
    store, _ = open_store(Source().plan)
    view, x, y = np.array([0, 0, 1, 2]), np.array([4, 0, 1, 0]), np.array([2, 1, 3, 0])
    naive = np.stack([store.image(int(v))[j, i] for v, i, j in zip(view, x, y, strict=True)])
    np.testing.assert_array_equal(store.pixels(view, x, y), naive)
    empty = np.zeros(0, np.int64)
    assert store.pixels(empty, empty, empty).shape == (0, 3)


def test_a_selection_shares_the_memory():
    source = Source()
    store, _ = open_store(source.plan)
    some = store.select([2, 0])
    np.testing.assert_array_equal(some.image(1), source.images[0])
    np.testing.assert_array_equal(some.image(0), source.images[2])
    assert np.shares_memory(some.image(1), store.image(0))
    assert some.nbytes == source.images[0].nbytes + source.images[2].nbytes


def test_nothing_is_resident_but_the_map():
    store, _ = open_store(Source().plan)
    base = store.image(0)
    while getattr(base, "base", None) is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not store.image(0).flags.writeable


def test_the_cache_is_used_again():
    source = Source()
    assert find_store(source.plan) is None
    open_store(source.plan)
    store, _ = open_store(source.plan)
    assert source.calls == 3 and [f["view"] for f in store.figures] == [0, 1, 2]
    np.testing.assert_array_equal(store.image(1), source.images[1])
    assert sorted(p.suffix for p in cache_folder().iterdir()) == [".json", ".pixels"]


@pytest.mark.parametrize("damage", ["short", "no sidecar", "garbled sidecar", "other layout"])
def test_a_damaged_cache_is_made_again(damage):
    source = Source()
    store, _ = open_store(source.plan)
    sidecar = store.path.with_suffix(".json")
    if damage == "short":
        store.path.write_bytes(store.path.read_bytes()[:-1])
    elif damage == "no sidecar":
        sidecar.unlink()
    elif damage == "garbled sidecar":
        sidecar.write_text("{")
    else:
        stored = json.loads(sidecar.read_text())
        stored["about"]["layout"] = -1
        sidecar.write_text(json.dumps(stored))
    again, _ = open_store(source.plan)
    assert source.calls == 6
    np.testing.assert_array_equal(again.image(0), source.images[0])


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_file(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("POLYFIELD_CACHE", str(blocked / "cache"))
    source = Source()
    store, warning = open_store(source.plan)
    assert "POLYFIELD_CACHE" in warning and str(blocked) in warning
    assert store.path is None
    np.testing.assert_array_equal(store.image(1), source.images[1])


def test_a_full_disk_everywhere_is_an_answer_with_the_size(monkeypatch):
    class Full:
        free = 10

    monkeypatch.setattr("polyfield.data.images.shutil.disk_usage", lambda folder: Full)
    with pytest.raises(InputError, match="POLYFIELD_CACHE"):
        open_store(Source().plan)


def test_a_failed_decoding_leaves_nothing_behind():
    with pytest.raises(InputError, match=r"2\.png"):
        open_store(Source(fail_at=1).plan)
    assert list(cache_folder().iterdir()) == []


def test_an_empty_store_is_allowed():
    store = RaggedStore(np.zeros((0, 3), np.uint8), np.zeros((0, 2), np.int64))
    assert len(store) == 0 and store.nbytes == 0
