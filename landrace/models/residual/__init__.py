"""Blocks that take several residual streams to one row for a branch and its result back to them, one kind a file."""
