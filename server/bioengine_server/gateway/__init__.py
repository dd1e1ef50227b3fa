"""The gateway for imjoy-rpc clients, which Hypha itself no longer accepts."""
