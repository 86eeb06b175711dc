"""A model's weights in fewer bits, as files: GGUF, or safetensors as others publish them."""
