"""The request and the result of the router."""
