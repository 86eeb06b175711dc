"""Blocks that work on each position alone, one kind a file."""
