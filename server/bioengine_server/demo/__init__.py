"""A demo without an image: it draws synthetic nuclei and segments them with a bundled model."""
