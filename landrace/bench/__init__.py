"""The bench: a model and this machine turned into speeds, each beside the machine's limit and peers'."""
