"""The project's version, which its three distributions share. CONTRIBUTING.md says how a release is made."""

VERSION = "0.2.0"
