"""Scenes: typed measured data with geometry and bounds; loaders; shipped samples."""
