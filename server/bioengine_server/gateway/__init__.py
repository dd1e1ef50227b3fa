"""imjoy-rpc clients on a Hypha that no longer takes them."""
