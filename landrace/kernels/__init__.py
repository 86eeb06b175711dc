"""Tensor arithmetic behind fixed names. `reference` is plain PyTorch and the oracle every faster backend is held to."""
