"""Image files and their axes, for the command line."""
