"""The chat of `run`: the conversation, its commands, and what a terminal reads and shows."""
