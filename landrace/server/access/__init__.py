"""Who may call: keys, their scopes and limits, and the names that this server answers to."""
