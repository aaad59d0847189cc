"""Grids, samples and held-out entries: numbering, coordinates, exact values, uniform draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.data.signal import Grid, SignalOptions
from polyfield.data.signals.holdout import RandomShare, hash_unit, parse_holdout
from polyfield.data.signals.load import detect_signal, load_signal, output_grid
from polyfield.data.signals.samples import GridSamples, PointSamples, Scaling
from polyfield.errors import ConfigError, InputError, UnknownNameError

CASES = [("image", (5, 3)), ("audio", (7,)), ("video", (4, 3, 2)), ("volume", (2, 3, 4))]
by_case = pytest.mark.parametrize("modality, shape", CASES, ids=[m for m, _ in CASES])


def samples_of(modality, shape, holdout=None, dtype=np.uint8):
    """Random data of a modality, and its samples."""
    grid = Grid.of(modality, shape)
    data = np.random.default_rng(0).integers(0, 256, (*grid.stored_shape, 2)).astype(dtype)
    kept = parse_holdout(SignalOptions(holdout=holdout), grid)
    return data, GridSamples(grid, data, Scaling(1 / 255), kept)


@by_case
def test_numbering_is_the_order_of_the_stored_array(modality, shape):
    grid = Grid.of(modality, shape)
    index = torch.arange(grid.entries)
    positions = grid.positions(index)
    assert torch.equal(grid.index(positions), index)
    stored = np.arange(grid.entries).reshape(grid.stored_shape)
    by_axis = tuple(positions[:, axis].numpy() for axis in grid.order)
    np.testing.assert_array_equal(stored[by_axis], index.numpy())


@by_case
def test_coordinates_are_centres_symmetric_about_zero(modality, shape):
    grid = Grid.of(modality, shape)
    x = grid.coordinates(torch.arange(grid.entries))
    for axis, size in enumerate(shape):
        expected = [(2 * i + 1) / size - 1 for i in range(size)]
        np.testing.assert_allclose(np.unique(x[:, axis].numpy()), expected, atol=1e-7)
    torch.testing.assert_close(x.flip(0), -x)


def test_an_image_has_x_along_columns_and_y_downwards():
    data, samples = samples_of("image", (5, 3))
    index = torch.tensor([1 * 5 + 4])  # row 1, column 4
    x, values = samples.at(index)
    np.testing.assert_allclose(x[0], [0.8, 0.0], atol=1e-7)
    np.testing.assert_allclose(values[0], data[1, 4] / 255, rtol=1e-7)


def test_a_video_has_its_frames_along_the_last_coordinate():
    data, samples = samples_of("video", (4, 3, 2))
    x, values = samples.at(torch.tensor([1 * 12 + 2 * 4 + 3]))  # frame 1, row 2, column 3
    np.testing.assert_allclose(x[0], [0.75, 2 / 3, 0.5], atol=1e-6)
    np.testing.assert_allclose(values[0], data[1, 2, 3] / 255, rtol=1e-7)


def test_long_axes_keep_their_neighbours_apart():
    grid = Grid.of("audio", (4_000_000,))
    x = grid.coordinates(torch.arange(3_000_000, 3_000_100))
    assert (x.diff(dim=0) > 0).all()


@by_case
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_blocks_cover_every_entry_once_in_order(modality, shape, size):
    data, samples = samples_of(modality, shape)
    blocks = list(samples.blocks(size))
    assert max(len(b.index) for b in blocks) <= size
    assert torch.equal(torch.cat([b.index for b in blocks]), torch.arange(samples.entries))
    values = torch.cat([b.values for b in blocks])
    np.testing.assert_array_equal(values, data.reshape(-1, 2).astype(np.float32) / np.float32(255))
    assert not any(b.held_out.any() for b in blocks)


def test_arrays_of_any_strides_give_the_same_values():
    data = np.random.default_rng(0).normal(size=(4, 3, 5, 1))
    grid = Grid.of("volume", (4, 3, 5))
    index = torch.randperm(60)
    plain = GridSamples(grid, data, Scaling(), None).values(index)
    turned = GridSamples(grid, np.asfortranarray(data), Scaling(), None).values(index)
    assert torch.equal(plain, turned)


def test_packed_numbers_are_signed_24_bits():
    numbers = np.array([0, 1, -1, 2**23 - 1, -(2**23)])
    stored = numbers.astype("<i4").view(np.uint8).reshape(-1, 1, 4)[..., :3]
    values = Scaling(0.5**23, packed=True)(stored)
    np.testing.assert_array_equal(values[:, 0], (numbers / 2**23).astype(np.float32))


def test_nothing_becomes_a_float_copy(generator):
    """A 4K image of bytes costs its bytes: drawing touches what is drawn."""
    grid = Grid.of("image", (3840, 2160))
    data = np.zeros((2160, 3840, 3), np.uint8)
    samples = GridSamples(grid, data, Scaling(1 / 255), None)
    assert samples.nbytes == data.nbytes
    assert samples.sample(7, generator)[1].shape == (7, 3)
    assert np.shares_memory(samples._data, data)


# Held-out entries


@pytest.mark.parametrize("spec", ["0.5", "every:2", "0.7", ".25"])
@by_case
def test_draws_never_hit_what_is_held_out_and_reach_all_else(modality, shape, spec, generator):
    _, samples = samples_of(modality, shape, spec)
    held = samples.holdout.contains(torch.arange(samples.entries))
    assert held.any() and not held.all()
    drawn = samples.holdout.draw(2000, generator)
    assert not held[drawn].any()
    assert set(drawn.tolist()) == set(torch.nonzero(~held).flatten().tolist())
    flags = torch.cat([b.held_out for b in samples.blocks(5)])
    assert torch.equal(flags, held)


def test_draws_are_uniform(generator):
    _, samples = samples_of("image", (8, 8), "0.5")
    fitted = ~samples.holdout.contains(torch.arange(64))
    count = torch.bincount(samples.holdout.draw(40_000, generator), minlength=64)[fitted]
    expected = 40_000 / int(fitted.sum())
    assert ((count - expected).abs() < 5 * expected**0.5).all()


def test_draws_follow_the_generator():
    _, samples = samples_of("image", (8, 8), "0.5")
    one, two = (samples.sample(9, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_a_share_is_a_share_of_independent_entries():
    index = np.arange(200_000)
    u = hash_unit(index, 0)
    assert abs(u.mean() - 0.5) < 0.005 and abs((u < 0.3).mean() - 0.3) < 0.005
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(u, hash_unit(index, 1))[0, 1]) < 0.01
    assert ((0 <= u) & (u < 1)).all()


def test_a_share_depends_on_seed_and_number_alone():
    grid = Grid.of("audio", (1000,))
    index = torch.arange(1000)
    one = RandomShare("0.5", grid, 0.5, 0).contains(index)
    assert torch.equal(one[100:200], RandomShare("0.5", grid, 0.5, 0).contains(index[100:200]))
    assert not torch.equal(one, RandomShare("0.5", grid, 0.5, 1).contains(index))


def test_every_second_along_each_axis_is_fitted():
    grid = Grid.of("image", (4, 4))
    held = parse_holdout(SignalOptions(holdout="every:2"), grid).contains(torch.arange(16))
    fitted = ~held.reshape(4, 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[::2, ::2] = True
    assert torch.equal(fitted, expected)


@pytest.mark.parametrize("spec", ["1", "0", "0.0", "2,7", "every:1", "every:9", "half", "-0.5"])
def test_holdouts_that_mean_nothing_are_refused(spec):
    with pytest.raises(ConfigError, match="holdout"):
        parse_holdout(SignalOptions(holdout=spec), Grid.of("image", (8, 8)))


@pytest.mark.parametrize("spec, words", [("0.999", "nothing is left"), ("0.0001", "keeps nothing")])
def test_a_share_of_a_tiny_signal_must_leave_both_sides(spec, words):
    with pytest.raises(ConfigError, match=words):
        parse_holdout(SignalOptions(holdout=spec), Grid.of("image", (4, 4)))


def test_what_is_white_in_a_mask_is_held_out(tmp_path, generator):
    mask = np.zeros((3, 5), np.uint8)
    mask[1, 2:4] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    for modality, shape in (("image", (5, 3)), ("video", (5, 3, 2))):
        grid = Grid.of(modality, shape)
        holdout = parse_holdout(SignalOptions(holdout=f"mask:{tmp_path / 'm.png'}"), grid)
        held = holdout.contains(torch.arange(grid.entries)).numpy().reshape(grid.stored_shape)
        np.testing.assert_array_equal(held, np.broadcast_to(mask > 0, grid.stored_shape))
        assert not holdout.contains(holdout.draw(500, generator)).any()


def test_a_mask_that_leaves_little_to_fit_still_draws_all_of_it(tmp_path, generator):
    mask = np.ones((40, 40), bool)
    mask[3, 4] = mask[20, 39] = False
    np.save(tmp_path / "m.npy", mask)
    grid = Grid.of("image", (40, 40))
    holdout = parse_holdout(SignalOptions(holdout=f"mask:{tmp_path / 'm.npy'}"), grid)
    assert set(holdout.draw(100, generator).tolist()) == {3 * 40 + 4, 20 * 40 + 39}


def test_masks_that_do_not_fit_are_refused(tmp_path):
    grid = Grid.of("image", (5, 3))
    np.save(tmp_path / "wide.npy", np.zeros((3, 6)))
    np.save(tmp_path / "all.npy", np.ones((3, 5)))
    np.save(tmp_path / "none.npy", np.zeros((3, 5)))
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (
        ("wide.npy", "3x6 entries, expected 3x5"),
        ("all.npy", "nothing is left to fit"),
        ("none.npy", "keeps nothing"),
        ("absent.png", "does not exist"),
        ("text.png", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            parse_holdout(SignalOptions(holdout=f"mask:{tmp_path / name}"), grid)


def test_the_last_points_are_held_out(generator):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    samples = PointSamples(x, x[:, :1], kept=10)
    drawn, values = samples.sample(3000, generator)
    assert torch.equal(drawn[:, :1], values)
    assert {tuple(p) for p in drawn.tolist()} == {tuple(p) for p in x[:40].tolist()}
    flags = torch.cat([b.held_out for b in samples.blocks(7)])
    assert flags.tolist() == [False] * 40 + [True] * 10


# Detection


def test_files_are_recognised(tmp_path):
    for name, kind in (
        ("a.WAV", "audio"), ("a.npy", "volume"), ("a.nii.gz", "volume"), ("a.obj", "shape"),
        ("a.mp4", "video"), ("a.jpeg", "image"), ("a.mp3", "audio"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"x")
        assert detect_signal(tmp_path / name).entry.name == kind
    Image.new("RGB", (4, 4)).save(tmp_path / "no_suffix", format="PNG")
    assert detect_signal(tmp_path / "no_suffix").entry.name == "image"


def test_what_is_no_signal_is_left_to_others(tmp_path):
    (tmp_path / "transforms.json").write_text("{}")
    assert detect_signal(tmp_path / "transforms.json") is None
    assert detect_signal(tmp_path) is None
    assert detect_signal(tmp_path / "absent.png") is None
    assert detect_signal("sample:orrery") is None
    for path, words in (
        (tmp_path / "transforms.json", "no signal of a known kind"),
        (tmp_path, "is a folder"),
        (tmp_path / "absent.png", "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            load_signal(path)


def test_a_kind_can_be_forced(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.dat", format="PNG")
    assert load_signal(tmp_path / "a.dat", SignalOptions(format="image")).modality == "image"
    with pytest.raises(UnknownNameError, match="did you mean 'image'"):
        detect_signal(tmp_path / "a.dat", "imgae")
    with pytest.raises(InputError, match="is no file"):
        detect_signal(tmp_path, "image")


@pytest.mark.parametrize("name", ["a.png", "a.wav", "a.npy", "a.obj", "a.mp4"])
def test_empty_files_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="empty"):
        load_signal(tmp_path / name)


def test_output_sizes_are_checked():
    meta = {"modality": "image", "shape": [5, 3]}
    assert output_grid(meta).stored_shape == (3, 5)
    assert output_grid(meta, (10, 6)).shape == (10, 6)
    assert output_grid({"modality": "shape", "shape": []}).shape == (256, 256, 256)
    for wrong in ((5,), (0, 3), (5, 3, 1)):
        with pytest.raises(InputError, match="sizes"):
            output_grid(meta, wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"downscale": 0}, {"start": -1.0}, {"start": 2.0, "stop": 1.0}, {"points": 3}, {"near": 1.5},
     {"near_std": (0.0, 0.1)}, {"margin": 1.0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        SignalOptions(**wrong)
