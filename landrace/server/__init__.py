"""The OpenAI-compatible server: HTTP in front, one engine process a model behind."""
