"""Coordinates -> features. An encoding knows nothing of scenes; see `base.CoordinateMap`."""
