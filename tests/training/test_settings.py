"""Layers of settings: defaults, presets, the user."""

from __future__ import annotations

import pytest

from polyfield import registry
from polyfield.errors import ConfigError, UnknownNameError
from polyfield.training.settings import resolve


def test_the_users_word_is_the_last():
    settings = resolve(
        {"backbone": {"levels": 3}, "fit": {"lr": 0.5}, "sampler": {"resolution": 9}}
    )
    assert settings["backbone"]["levels"] == 3
    assert settings["fit"]["lr"] == 0.5
    assert settings["sampler"]["resolution"] == 9


def test_every_setting_is_written_out():
    settings = resolve({})
    assert settings["fit"]["betas"] == [0.9, 0.99]
    assert settings["data"]["ndc"] is False
    assert settings["renderer"]["normals"] is False
    assert settings["losses"] == {"mse": 1.0}


def test_the_preset_follows_the_device_unless_named():
    on_cpu, on_cuda = resolve({}), resolve({}, device="cuda")
    assert on_cpu["backbone"]["log2_entries"] < on_cuda["backbone"]["log2_entries"] == 19
    assert resolve({}, preset="paper") == on_cuda


def test_scenes_without_an_end_are_sampled_by_proposals_unless_the_user_says():
    assert resolve({})["sampler"]["type"] == "occupancy-grid"
    unbounded = resolve({}, unbounded=True)
    assert unbounded["sampler"]["type"] == "proposal"
    assert unbounded["losses"]["interlevel"] == 1.0
    asked = resolve({"sampler": {"type": "occupancy-grid"}}, unbounded=True)
    assert asked["sampler"]["cone_angle"] == 0.03
    assert "interlevel" not in asked["losses"]


def test_a_backbone_without_presets_is_sampled_the_same_way(monkeypatch):
    registry.names("backbones")
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    registry.register("bare", kind="backbones")(type("Bare", (), {}))
    user = {"backbone": {"type": "bare"}}
    assert resolve(user)["sampler"]["type"] == "occupancy-grid"
    assert resolve(user, unbounded=True)["sampler"]["type"] == "proposal"


def test_a_replaced_component_takes_none_of_the_presets_settings():
    settings = resolve({"sampler": {"type": "stratified"}})
    assert (
        settings["sampler"].keys() == resolve({"sampler": {"type": "stratified"}})["sampler"].keys()
    )
    assert "resolution" not in settings["sampler"]


def test_the_coarse_pass_of_nerf_is_trained():
    settings = resolve({"backbone": {"type": "mlp"}}, preset="paper")
    assert settings["sampler"]["type"] == "hierarchical"
    assert settings["losses"] == {"mse": 1.0, "coarse": 1.0}
    none = {"backbone": {"type": "mlp"}, "losses": {"coarse": 0}}
    assert resolve(none, preset="paper")["losses"]["coarse"] == 0


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"fits": {}}, "did you mean 'fit'"),
        ({"fit": {"precision": "float16"}}, "bfloat16|float32"),
        ({"backend": "cuda"}, "unknown backend"),
        ({"seed": 1.5}, "seed must be"),
        ({"losses": {"l2": 1}}, "unknown loss"),
        ({"losses": {"mse": -1}}, "weight >= 0"),
        ({"losses": {"mse": 0}}, "nothing would be learned"),
        ({"losses": 5}, "holds settings"),
        ({"fit": {"minutes": float("nan")}}, "minutes must be (positive|a finite number)"),
        ({"fit": {"betas": [0.9, 1.5]}}, "betas must be"),
        ({"fit": {"eps": -1.0}}, "eps must not be negative"),
        ({"threads": 0}, "threads must be"),
        ({"sampler": {"decay": 2.0}}, "decay must be"),
        ({"field": {"type": "radiant"}}, "did you mean 'radiance'"),
    ],
)
def test_wrong_names_and_values_are_refused(user, message):
    with pytest.raises(ConfigError, match=message):
        resolve(user)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        resolve({}, preset="papier")
