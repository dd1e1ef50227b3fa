"""Triton as seen from the server: its process, its API, the health of its model runner."""
