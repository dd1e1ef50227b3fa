"""Objects from what a network predicts, by the method that belongs to the network.

These modules need the packages of the environment `labels` (`deploy/environments.py`).
"""
