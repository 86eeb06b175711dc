"""The chat page: the built bundle, and the routes that send it."""
