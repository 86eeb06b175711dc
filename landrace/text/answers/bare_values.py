"""Values that stand as bare text between marks, by their JSON schema: texts that read back as a value that is valid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from landrace.errors import RequestError
from landrace.text.answers.arguments import MAX_DEPTH, alternatives, referred, types_of
from landrace.text.answers.declared_tools import DEFINITIONS, with_definitions
from landrace.text.answers.lark import ANY, Lark, either, pattern, without

_NOT_READ = r"/[A-Za-z_](?s:.*)/ & ~/(true|True|false|False|null|None)\s*/"
"""Text that is nothing but text to a reader who also looks for numbers, truth values, null, arrays and objects."""
_DAY = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_FORMATS = {
    "date": _DAY,
    "time": _TIME,
    "date-time": f"{_DAY}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "email": r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+",
}


def bare_value(lark: Lark, schema: Any, root: Mapping[str, Any], kind: str, mark: str, pad: str) -> str:
    """A value and the mark that ends it, as an expression; "" where `kind` has none.

    `root`: what references of the schema are into. `kind`: "string" for text as it is, "json" or a JSON type for JSON,
    or "" for what `typed` reads. Raises RequestError for what cannot be written so.
    """
    types = types_of(schema, root)
    others = {kind} & types or types - {"string"}
    ways = []
    if kind in ("", "string") and (not types or "string" in types):
        text = _texts(schema, root)
        if kind == "" and others:
            text = f"({text}) & {_NOT_READ}"
        ways.append(_padded(lark, pad, lark.until(without(f"({text})", [mark]), pad + mark)))
    if kind != "string" and others:
        value = lark.json(_of_types(schema, root, others), mark)
        ways.append(_padded(lark, pad, f"{value} {lark.mark(pad + mark)}"))
    return either(ways) if ways else ""


def _padded(lark: Lark, pad: str, expression: str) -> str:
    return f"{lark.text(pad)} {expression}" if pad else expression


def _texts(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """The strings that a schema takes, as a terminal's expression."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return ANY
    parts = []
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        parts.append(either([Lark.text(one) for one in values if isinstance(one, str)]))
    if "pattern" in schema:
        parts.append(_search(schema["pattern"]))
    if "format" in schema:
        if schema["format"] not in _FORMATS:
            raise RequestError(f"format {schema['format']!r} is not supported here.", field="guide")
        parts.append(pattern(_FORMATS[schema["format"]]))
    if "minLength" in schema or "maxLength" in schema:
        parts.append(pattern(f"(?s:.{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}})"))
    if "$ref" in schema:
        parts.append(f"({_texts(referred(schema['$ref'], root), root, depth + 1)})")
    parts += [f"({_texts(one, root, depth + 1)})" for one in alternatives(schema, "allOf")]
    for name in ("anyOf", "oneOf"):
        takes = [one for one in alternatives(schema, name) if "string" in (types_of(one, root) or {"string"})]
        if name == "oneOf" and len(takes) > 1:
            raise RequestError("oneOf of several kinds of text is not supported here.", field="guide")
        parts += [either([f"({_texts(one, root, depth + 1)})" for one in takes])] if takes else []
    return " & ".join(parts) or ANY


def _search(source: str) -> str:
    """A pattern that may be found anywhere in a text, unless it is anchored."""
    ways = []
    for way in _top_level(source):
        begins, ends = way.startswith("^"), way.endswith("$") and not way.endswith("\\$")
        body = way[begins : len(way) - ends]
        ways.append(("" if begins else "(?s:.*)") + f"({body})" + ("" if ends else "(?s:.*)"))
    return pattern("|".join(ways))


def _top_level(source: str) -> list[str]:
    """The alternatives that a pattern consists of."""
    found, depth = [""], 0
    for piece in re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", source, re.DOTALL):
        if piece == "|" and not depth:
            found.append("")
            continue
        depth += (piece == "(") - (piece == ")")
        found[-1] += piece
    return found


def _of_types(schema: Any, root: Mapping[str, Any], types: set[str]) -> dict[str, Any]:
    """A schema of its own for the values of `types`."""
    whole = with_definitions(schema, root)
    definitions = {name: whole.pop(name) for name in DEFINITIONS if name in whole}
    if types_of(schema, root) != types:
        whole = {"allOf": [whole, {"type": sorted(types)}]}
    return {**whole, **definitions}
