"""Triton models of the public server, which existing programs call by name, with the inputs and outputs that they had there.

`./bioengine apps install` makes a Triton model for one of them (`app_models/`), with weights that the admin brings.
"""
