"""Backbones (`backbones/`) and the fields made of them. A field knows nothing of rays."""
