"""Volumes: values in their units, and files written back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from polyfield.data.signals.load import load_signal
from polyfield.data.signals.volume import resampled_affine
from polyfield.errors import InputError, MissingDependencyError


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "bool"])
def test_volumes_are_normalised_and_return_in_their_units(
    tmp_path, dtype, stored_values, write_back
):
    data = np.random.default_rng(0).normal(size=(4, 5, 6)) * 40
    data = data > 0 if dtype == "bool" else data.astype(dtype)
    np.save(tmp_path / "a.npy", data)
    signal = load_signal(tmp_path / "a.npy")
    values = stored_values(signal)[..., 0].numpy()
    assert (signal.shape, signal.dims, signal.channels) == ((4, 5, 6), 3, 1)
    assert values.min() == 0 and values.max() == 1
    low, high = float(data.min()), float(data.max())
    np.testing.assert_allclose(values, (data.astype(float) - low) / (high - low), atol=1e-6)
    write_back(signal, tmp_path / "b.npy")
    again = np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(again, data.astype(float), atol=1e-4)


def test_the_order_in_memory_does_not_matter(tmp_path, stored_values):
    data = np.random.default_rng(0).normal(size=(4, 5, 6))
    np.save(tmp_path / "c.npy", data)
    np.save(tmp_path / "f.npy", np.asfortranarray(data))
    c, f = (stored_values(load_signal(tmp_path / name)) for name in ("c.npy", "f.npy"))
    assert torch.equal(c, f)


@pytest.mark.parametrize(
    "shape, dims, channels",
    [((4, 5, 6, 2), 3, 2), ((4, 5, 6, 7), 4, 1), ((3, 4, 5, 6, 7, 5), 6, 1)],
)
def test_more_axes_and_channels(tmp_path, shape, dims, channels, write_back):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=shape))
    signal = load_signal(tmp_path / "a.npy")
    assert (signal.dims, signal.channels) == (dims, channels)
    write_back(signal, tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").shape == shape


def test_volumes_that_cannot_be_used_are_refused(tmp_path):
    good = np.random.default_rng(0).normal(size=(4, 4, 5))
    bad = good.copy()
    bad[2, 1, 3] = np.nan
    for name, data, words in (
        ("nan", bad, r"1 values that are not finite.*\(2, 1, 3\)"),
        ("flat", np.full((4, 4, 5), 3.0), "3 everywhere"),
        ("plane", good[0], "shape"),
        ("seven", np.zeros((2,) * 6 + (5,)), "shape"),
        ("none", good[:0], "shape"),
        ("complex", good + 1j, "complex128"),
        ("text", np.full((4, 4, 5), "a"), "real numbers"),
    ):
        np.save(tmp_path / f"{name}.npy", data)
        with pytest.raises(InputError, match=words):
            load_signal(tmp_path / f"{name}.npy")
    np.save(tmp_path / "objects.npy", np.array([[[{}]]], object))
    np.save(tmp_path / "whole.npy", good)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:200])
    for name in ("objects", "cut"):
        with pytest.raises(InputError, match="cannot be read"):
            load_signal(tmp_path / f"{name}.npy")


def test_without_nibabel_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    (tmp_path / "a.nii").write_bytes(b"x")
    with pytest.raises(MissingDependencyError, match=r"polyfield\[nifti\]"):
        load_signal(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_units_and_place(tmp_path, suffix, write_back):
    nibabel = pytest.importorskip("nibabel", reason="pip install 'polyfield[nifti]'")
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-10, 5, 1]
    data = np.random.default_rng(0).integers(-300, 900, (4, 5, 6)).astype(np.int16)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(2.0, 7.0)
    nibabel.save(image, tmp_path / f"a{suffix}")
    expected = np.asarray(nibabel.load(tmp_path / f"a{suffix}").dataobj)
    signal = load_signal(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(signal.meta["range"], [expected.min(), expected.max()], rtol=1e-6)
    write_back(signal, tmp_path / f"b{suffix}")
    again = nibabel.load(tmp_path / f"b{suffix}")
    np.testing.assert_allclose(np.asarray(again.dataobj), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(again.affine, affine)
    (tmp_path / f"cut{suffix}").write_bytes((tmp_path / f"a{suffix}").read_bytes()[:90])
    with pytest.raises(InputError, match="cannot be read"):
        load_signal(tmp_path / f"cut{suffix}")


def test_voxels_of_another_size_fill_the_same_place():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-10, 5, 1]
    fine = resampled_affine({"affine": affine.tolist(), "shape": [4, 5, 6]}, (8, 10, 3))
    for corner_old, corner_new in (((-0.5,) * 3, (-0.5,) * 3), ((3.5, 4.5, 5.5), (7.5, 9.5, 2.5))):
        np.testing.assert_allclose(fine @ [*corner_new, 1], affine @ [*corner_old, 1])
