"""What is answered over plain HTTP: the service, Triton behind an allow-list, bounds on bodies, CORS."""
