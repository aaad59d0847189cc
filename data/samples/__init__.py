"""Small scenes that ship with the package: one module per scene, ``sample:NAME`` names it."""
