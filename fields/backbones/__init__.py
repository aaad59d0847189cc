"""Backbones: one file per method, found by name (``polyfield list backbones``)."""
