"""The reference kernels: plain PyTorch, any device, differentiable."""
