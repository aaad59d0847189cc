"""``python -m polyfield.apps``."""

from polyfield.apps.cli import main

main()
