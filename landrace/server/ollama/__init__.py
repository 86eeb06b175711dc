"""Ollama's API: chats, texts and what is served."""
