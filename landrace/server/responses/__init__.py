"""The OpenAI API's responses, which keep nothing."""
