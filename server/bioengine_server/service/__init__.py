"""The triton-client service and its registration."""
