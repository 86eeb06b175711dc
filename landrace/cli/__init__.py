"""The command line: what a person asks, turned into calls of the rooms below."""
