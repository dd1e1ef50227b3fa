"""`bioengine doctor`: find what is missing or wrong on a machine and in a set-up, and say how to fix it."""
