"""The registry: names, nearest matches, duplicates, plug-ins."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from polyfield import registry
from polyfield.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Size:
    width: int = 3


@pytest.fixture
def scratch(monkeypatch):
    """An empty registry whose additions are forgotten after the test."""
    monkeypatch.setattr(registry, "_ENTRIES", {})
    monkeypatch.setattr(registry, "_DISCOVERED", set(registry.KINDS))
    return registry


def test_a_registered_component_is_found_configured_and_built(scratch):
    @scratch.register("toy", kind="backbones", config=Size, paper="Nobody 2000")
    class Toy:
        """A toy."""

        def __init__(self, config, in_dim):
            self.config, self.in_dim = config, in_dim

    built = scratch.build("backbones", {"type": "toy", "width": 7}, in_dim=2)
    assert (built.config.width, built.in_dim) == (7, 2)
    entry = scratch.lookup("backbones", "toy")
    assert (entry.summary, entry.paper) == ("A toy.", "Nobody 2000")


def test_unknown_names_are_answered_with_the_nearest(scratch):
    with pytest.raises(UnknownNameError, match="did you mean 'hash-grid'"):
        scratch.register("hash-grid", kind="backbones")(Size)
        scratch.lookup("backbones", "hashgrid")


def test_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'backbones'"):
        registry.names("backbone")


def test_two_components_of_one_name_are_refused(scratch):
    scratch.register("twin", kind="backbones")(Size)
    with pytest.raises(ConfigError, match="registered twice"):
        scratch.register("twin", kind="backbones")(type("Other", (), {}))


def test_registering_the_same_component_again_is_harmless(scratch):
    scratch.register("again", kind="backbones")(Size)
    scratch.register("again", kind="backbones")(Size)
    assert scratch.lookup("backbones", "again").target is Size


def test_settings_of_a_component_without_settings_are_refused(scratch):
    scratch.register("plain", kind="backbones")(Size)
    with pytest.raises(ConfigError, match="has no settings"):
        scratch.configure("backbones", {"type": "plain", "width": 1})


def test_entry_points_of_other_packages_are_loaded(scratch, monkeypatch, tmp_path):
    (tmp_path / "third_party_field.py").write_text(
        "from polyfield.registry import register\n"
        "@register('third-party', kind='backbones')\n"
        "class Foreign:\n    'From elsewhere.'\n"
    )
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[polyfield.backbones]\nthird = third_party_field\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_DISCOVERED", set())
    assert "third-party" in registry.names("backbones")
    sys.modules.pop("third_party_field")


def test_a_broken_plug_in_is_named(scratch, monkeypatch, tmp_path):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[polyfield.backbones]\nbad = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_DISCOVERED", set())
    with pytest.raises(ConfigError, match=r"plug-in 'bad' .* cannot be imported"):
        registry.names("backbones")
