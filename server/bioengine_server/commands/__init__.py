"""The commands of `./bioengine`, one module for each subject."""
