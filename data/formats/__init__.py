"""File formats users bring; one file each.

A format is a class registered with ``@register("name", kind="formats", order=N)``; smaller orders
are tried first. It has

``looks_for``
    the files it recognises, for messages;
``detect(path) -> str | None``
    why a folder or file is of this format, None if it is not; reads as little as possible;
``load(path, options) -> Description``
    poses, intrinsics and hints. Whatever all formats share (missing images, sizes, splits,
    bounds, pixels) is done once, by `polyfield.data.load`.
"""
