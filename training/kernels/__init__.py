"""Compiled CPU kernels. Importing a module of this package imports numba, so do it lazily."""
