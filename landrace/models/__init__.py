"""A `ModelSpec` becomes a `Decoder`: the one forward pass, and what the model families say about it."""
