"""What the BioEngine server and its model runner agree on: each decision that both need is made here, once.

Imported in two environments (the server's, and the one that Triton's Python backend uses), so it needs NumPy, pydantic and
msgpack alone.
"""
