"""Blocks that mix the positions of a sequence, one kind a file."""
