"""Answers for the page's tests, and a model that gives the one whose number a question ends with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from reciting_model import END, THINKING, write_reciting_model

RICH = """# Bread and numbers

A **sourdough** starter is *alive*; see [the notes](https://example.org/notes) and `flour()`.

- wheat, with water
- rye
  1. dark rye first
  2. light rye second
- [x] fed today
- [ ] fed tomorrow

| grain | protein | grams |
| :---- | :-----: | ----: |
| wheat | high    |   500 |
| spelt | middle  |   250 |

```python
def hydrate(flour: float, share: float = 0.7) -> float:
    \"\"\"Water for so much flour.\"\"\"
    return flour * share  # in grams
```

The doubling time is $t = \\ln 2 / r$, and so

$$
N(t) = N_0 \\, e^{rt}, \\qquad \\int_0^T r \\, dt = \\frac{\\ln 2}{k}
$$

> Patience is an ingredient.

هذا سطر يُقرأ من اليمين إلى اليسار.

Lunch costs $5 today and $6 tomorrow."""
THOUGHT = """<think>
The person asks for a colour. Green suits leaves, and paper suits ink.
</think>

Green, I would say."""
CALL = """<tool_call>
{"name": "weather", "arguments": {"town": "Bergen", "days": 2}}
</tool_call>"""
RECORD = '{"name": "Ada", "born": 1815, "works": ["notes", "letters"]}'
ATTACK = """Look: <img src=x onerror="document.title='owned'"> <svg onload="document.title='owned2'"></svg>

<script>document.title = 'owned3'</script><iframe srcdoc="<script>parent.document.title='owned4'</script>"></iframe>

[click](javascript:document.title='owned5') [also](data:text/html,<script>1</script>)
![pixel](https://evil.example/pixel.png?leak=1)

<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=document.title='owned6'&gt;">

<a href="jav&#x09;ascript:document.title='owned7'">x</a> <form action="https://evil.example"><input name=a></form>

$\\href{javascript:document.title='owned8'}{formula}$ $\\fcolorbox{red}{blue}{box}$ and $\\htmlStyle{color:red}{s}$

```html
</code></pre><script>document.title='owned9'</script>
```

<style>body { display: none }</style></script><base href="https://evil.example/">done."""
DOCUMENTS: Mapping[str, str] = {"1": RICH, "2": THOUGHT, "3": CALL, "4": RECORD, "5": ATTACK}
ENDLESS = "9"
"""The number of an answer that goes on until it is stopped or the context is full."""
_ENDLESS = [f"word{n} " if n % 12 else f"word{n}.\n\n" for n in range(48)]
_MARKS = re.compile(r"(<think>|</think>|</?tool_call>)")


def write_page_model(folder: Path, extras: Path) -> Path:
    """Answers `DOCUMENTS[n]` to what ends with n."""
    template = THINKING.replace("assistant:{% if enable", "assistant{{ messages[-1].content[-1:] }}{% if enable")
    used: set[str] = set()
    chains = [[number, *_pieces(text, used), END] for number, text in DOCUMENTS.items()]
    chains.append([ENDLESS, *_ENDLESS, _ENDLESS[0]])
    return write_reciting_model(folder, extras, chains, template)


def _pieces(text: str, used: set[str]) -> list[str]:
    """The text in pieces that occur nowhere else, as a chain of tokens wants it; marks are pieces of their own."""
    pieces: list[str] = []
    for part in filter(None, _MARKS.split(text)):
        if _MARKS.fullmatch(part):
            pieces.append(part)
            continue
        grown, own = "", [""]
        for word in re.findall(r"\s*\S+|\s+$", part):
            grown += word
            if len(grown) > 2 and grown not in used:
                own.append(grown)
                used.add(grown)
                grown = ""
        own[-1] += grown
        assert not grown or own[-1] not in used, own[-1]
        used.add(own[-1])
        pieces += filter(None, own)
    return pieces
