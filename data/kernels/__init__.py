"""Compiled kernels of pixels."""
