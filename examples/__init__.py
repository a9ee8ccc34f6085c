"""Standard networks in own definitions, each a subject of `slim`; see README, "Any PyTorch network"."""
