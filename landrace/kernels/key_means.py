"""How keys are averaged where blocks of positions are chosen by them (InfLLM-v2). Imports no torch."""

MEAN_OF = 16
"""Neighbouring keys in a mean, the first at a multiple of it."""
WINDOW = 2
"""Neighbouring means in a window; the next begins one on."""
COARSE, COARSE_APART = 8, 4
"""Means in a coarse window, and from one to the next."""
