"""LiDAR: sweeps of spinning sensors, their files, and scenes made of them."""
