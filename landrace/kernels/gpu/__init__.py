"""Triton kernels for CUDA devices. Imported only where there is one, since PyTorch's builds for CPUs bring no Triton.

No row's result depends on the rows beside it: every sum has one tree of additions, which the shape of a matrix or the
position of a key decides, and only the schedule follows the size of the step.
"""
