"""The command line; later the viewer."""
