"""Programs that run a network, a backend a file."""
