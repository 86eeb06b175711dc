"""What is between a connection and a route: bodies, their limits, request ids, errors."""
