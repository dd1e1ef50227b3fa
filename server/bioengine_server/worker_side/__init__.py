"""The process of `bioengine worker`: dials in to a server, takes work from it, and has its own Triton do it."""
