"""Samplers pick intervals along rays; one file each."""
