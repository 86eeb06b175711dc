"""Who holds which part of the cache: bookkeeping without torch, except for `memory`."""
