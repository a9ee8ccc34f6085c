"""Prune networks: Darknet detectors first, and any other PyTorch network."""
