"""What an operator reads afterwards: lines on stderr, and spans."""
