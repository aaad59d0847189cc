"""``polyfield distill``: a reserved name."""

from polyfield.apps.reserved import reserved

command = reserved("distill", "Distil a run into another kind of field (not in this version yet).")
