"""Attacks on a stack of our own, and that each of them fails."""
