"""The names of a GGUF model's parts, as llama.cpp's tool gives them: `model-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re

MAX_PARTS = 1 << 12
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def part_names(name: str) -> tuple[str, ...]:
    """The names of all parts of the model that a file of this name is a part of, the first one first; else the name."""
    found = _PART.fullmatch(name)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]) <= MAX_PARTS:
        return (name,)
    return tuple(f"{found['stem']}-{n:05d}-of-{found['count']}.gguf" for n in range(1, int(found["count"]) + 1))
