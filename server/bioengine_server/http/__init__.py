"""Plain HTTP: the routes, the service, Triton's protocol behind an allow-list, limits for bodies, CORS."""
