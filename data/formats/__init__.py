"""File formats users bring; one file each: `detect(path)` and `load(path, options)`."""
