"""Runtimes for exported networks: one protocol, one backend per file."""
