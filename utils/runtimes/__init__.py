"""What runs an exported network: one protocol, a backend a file."""
