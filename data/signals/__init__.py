"""Signal formats users bring; one file each, beside the machinery they share.

A format is a class registered with ``@register("name", kind="signals", order=N)``; smaller orders
are tried first. It has

``looks_for``
    the files it recognises, for messages;
``detect(path) -> str | None``
    why a file is of this format, None if it is not; reads as little as possible;
``load(path, options) -> Signal``
    the signal, its values still in the file's number type;
``write(blocks, meta, grid, out)``
    a reconstruction: values in the order of `grid`, in the user's units and number type.
"""
