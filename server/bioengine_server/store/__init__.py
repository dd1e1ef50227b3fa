"""The model store: import, layout, removal."""
