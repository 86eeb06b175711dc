"""What people say of answers, and the conversations that may be kept to learn from."""
