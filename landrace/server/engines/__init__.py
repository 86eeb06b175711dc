"""Engines in processes of their own, and the side of them that the event loop sees."""
