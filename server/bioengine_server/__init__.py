"""bioengine-server: Hypha, the triton-client service, the model store and the command line."""
