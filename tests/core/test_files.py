"""Atomic writes."""

from __future__ import annotations

import errno
import json

import pytest

from polyfield.errors import InputError
from polyfield.files import read_json, replacing, write_json


def test_written_json_reads_back(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, None]}


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.txt: No space left on device"),
        replacing(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "missing" / "a.json", {})


def test_values_json_cannot_hold_are_refused_before_anything_is_replaced(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_bad_json_names_the_file_and_the_line(tmp_path):
    (tmp_path / "b.json").write_text("{\n  oops\n}")
    with pytest.raises(InputError, match=r"b\.json is not valid JSON .*line 2"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "c.json")
