"""Hypha, in this process: its application, secrets and service ids."""
