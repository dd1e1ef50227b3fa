"""Small bioimage.io packages that the tests build for themselves."""
