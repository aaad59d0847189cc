"""``polyfield export``: a reserved name."""

from polyfield.apps.reserved import reserved

command = reserved("export", "Export a mesh, points or ONNX (not in this version yet).")
