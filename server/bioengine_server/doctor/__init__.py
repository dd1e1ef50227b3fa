"""`bioengine doctor`: what a machine and a set-up lack, and what to do about it."""
