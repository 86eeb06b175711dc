"""The OpenAI API: chats and completions."""
