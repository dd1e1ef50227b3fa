"""Triton as seen from the server: its process, its API, its health."""
