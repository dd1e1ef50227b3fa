"""Images of any size through models of some sizes: padded, cut into tiles, put together."""
