"""``polyfield view``: a reserved name."""

from polyfield.apps.reserved import reserved

command = reserved("view", "Browse runs in the browser (not in this version yet).")
