"""Cameras, rays, samplers, compositing, and renderers: (field, rays) -> measurements."""
