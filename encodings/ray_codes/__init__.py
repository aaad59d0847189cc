"""Codes of rays: what a light field is asked with, one file each."""
