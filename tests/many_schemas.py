"""Three hundred JSON schemas in twenty families, fifteen of each, drawn from seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
SEEDS = range(15)

_NAMES = (
    "id",
    "name",
    "status",
    "created",
    "owner",
    "size",
    "note",
    "tags",
    "price",
    "zip code",
    "a/b",
    "x~y",
    "$ref-like",
)
_FOREIGN = ("имя", "città", "数量", "naïve", "šifra", "Größe", "日付", "مدينة", "emoji 🙂", "tab\there", 'quote"d')
_PATTERNS = ("^[A-Z]{2}[0-9]{4}$", "^(yes|no)$", "[0-9]+", "^a+b*c?$", "^[a-z]+(-[a-z]+)*$", "^[^,;]{1,8}$", "x|y")
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "duration", "hostname")


def schemas() -> dict[tuple[str, int], Schema]:
    """All of them, by family and seed."""
    return {(name, seed): make(random.Random(f"{name} {seed}")) for name, make in FAMILIES.items() for seed in SEEDS}


def closed(properties: Schema, required: list[str], **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


def _some(draw: random.Random, names: Any) -> list[str]:
    return draw.sample(list(names), draw.randint(1, 4))


def _leaf(draw: random.Random) -> Schema:
    low = draw.randint(-50, 50)
    return draw.choice(
        [
            {"type": "string", "maxLength": draw.randint(0, 9)},
            {"type": "string", "minLength": draw.randint(1, 3), "maxLength": draw.randint(3, 12)},
            {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 300)},
            {"type": "number", "exclusiveMinimum": low, "maximum": low + 10.5},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": draw.sample(["a", "b", "ä", 1, 2.5, None, True, ""], draw.randint(1, 5))},
            {"const": draw.choice([0, "fixed", None, False, {"k": [1]}, ["x", {}]])},
        ]
    )


def _fields(draw: random.Random, names: Any, depth: int = 0) -> Schema:
    chosen = _some(draw, names)
    inner = [_fields(draw, names, depth + 1) if depth < 2 and draw.random() < 0.35 else _leaf(draw) for _ in chosen]
    return closed(dict(zip(chosen, inner, strict=True)), draw.sample(chosen, draw.randint(0, len(chosen))))


def record(draw: random.Random) -> Schema:
    return {"title": "A record", "description": "Of nothing.", **_fields(draw, _NAMES)}


def foreign_keys(draw: random.Random) -> Schema:
    return _fields(draw, _FOREIGN)


def open_object(draw: random.Random) -> Schema:
    name, *others = _some(draw, _NAMES)
    properties = {one: _leaf(draw) for one in (name, *others)}
    return {"type": "object", "properties": properties, "required": [name]}


def array(draw: random.Random) -> Schema:
    least = draw.randint(0, 3)
    items = draw.choice([_leaf(draw), {"type": "array", "items": _leaf(draw), "maxItems": 2}])
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + draw.randint(0, 4)}


def pair(draw: random.Random) -> Schema:
    fixed = [_leaf(draw) for _ in range(draw.randint(1, 4))]
    return {"type": "array", "prefixItems": fixed, "items": False, "minItems": len(fixed)}


def choice(draw: random.Random) -> Schema:
    values = ["red", "red and blue", "", "re", 0, -1, 1.5, True, None, [1, [2]], {"a": "b"}, "línea\n", "\\"]
    return {"enum": draw.sample(values, draw.randint(2, 8))}


def tagged(draw: random.Random) -> Schema:
    kinds = draw.sample(["card", "cash", "transfer", "voucher"], draw.randint(2, 4))
    forms = [closed({"kind": {"const": kind}, "value": _leaf(draw)}, ["kind", "value"]) for kind in kinds]
    return {draw.choice(["anyOf", "oneOf"]): forms}


def tree(draw: random.Random) -> Schema:
    node = closed(
        {"value": _leaf(draw), "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
        ["value"],
    )
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


def chain(draw: random.Random) -> Schema:
    rest = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
    return closed({"head": _leaf(draw), "rest": rest}, ["head", "rest"])


def pattern(draw: random.Random) -> Schema:
    names = _some(draw, _NAMES)
    return closed(
        {name: {"type": "string", "pattern": draw.choice(_PATTERNS), "maxLength": 30} for name in names}, names
    )


def formatted(draw: random.Random) -> Schema:
    names = _some(draw, _NAMES)
    return closed({name: {"type": "string", "format": draw.choice(_FORMATS)} for name in names}, names)


def ranges(draw: random.Random) -> Schema:
    low = draw.choice([-1000, -3, 0, 0.25, 7, 999])
    kind = draw.choice(["integer", "number"])
    bounds = draw.choice(
        [
            {"minimum": low},
            {"maximum": low},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + 5},
            {"minimum": low, "maximum": low + 1},
        ]
    )
    return {"type": "array", "items": {"type": kind, **bounds}, "minItems": 1, "maxItems": 3}


def multiples(draw: random.Random) -> Schema:
    step = draw.choice([2, 5, 10, 25])
    return closed({"n": {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 40 * step}}, ["n"])


def mapping(draw: random.Random) -> Schema:
    return {"type": "object", "additionalProperties": _leaf(draw), "maxProperties": draw.randint(1, 4)}


def named_by_pattern(draw: random.Random) -> Schema:
    ways = {"^x_": _leaf(draw), "^[0-9]+$": _leaf(draw)}
    return {"type": "object", "patternProperties": ways, "additionalProperties": False}


def several_types(draw: random.Random) -> Schema:
    types = draw.sample(["string", "integer", "number", "boolean", "null", "array", "object"], draw.randint(2, 4))
    bounds = {
        "maxLength": 5,
        "minimum": 0,
        "maximum": 99,
        "items": _leaf(draw),
        "maxItems": 2,
        "additionalProperties": False,
    }
    return {"type": types, **bounds}


def merged(draw: random.Random) -> Schema:
    first, second = _some(draw, _NAMES[:6]), _some(draw, _NAMES[6:])
    parts = [
        {"type": "object", "properties": {name: _leaf(draw) for name in names}, "required": names}
        for names in (first, second)
    ]
    return {"allOf": parts}


def shared(draw: random.Random) -> Schema:
    definitions = {"part": _leaf(draw), "b/c": _fields(draw, _NAMES, depth=1)}
    names = _some(draw, _NAMES)
    references = ("#/definitions/part", "#/definitions/b~1c")
    return closed({name: {"$ref": draw.choice(references)} for name in names}, names[:1], definitions=definitions)


def optional(draw: random.Random) -> Schema:
    """As data classes are told: titles, defaults, and null for what is left out."""
    names = _some(draw, _NAMES)
    fields = {
        name: {"anyOf": [_leaf(draw), {"type": "null"}], "default": None, "title": name.title()} for name in names
    }
    return closed(fields, draw.sample(names, draw.randint(0, len(names))), title="Settings")


def call(draw: random.Random) -> Schema:
    """A request to some API: a method, a path, parameters and a page."""
    parameters = {
        "type": "object",
        "additionalProperties": {"type": ["string", "integer"], "maxLength": 6, "minimum": 0},
    }
    page = closed(
        {"limit": {"type": "integer", "minimum": 1, "maximum": 100}, "after": {"type": ["string", "null"]}}, ["limit"]
    )
    path = {"type": "string", "pattern": "^(/[a-z0-9]{1,6}){1,3}$"}
    fields = {"method": {"enum": ["GET", "PUT"]}, "path": path, "parameters": parameters, "page": page}
    return closed(fields, draw.sample(list(fields), 3))


def settings(draw: random.Random) -> Schema:
    """The configuration of some program, in sections."""
    level = {"enum": ["debug", "info", "error"]}
    section = closed(
        {"enabled": {"type": "boolean"}, "level": level, "retries": {"type": "integer", "minimum": 0}}, ["enabled"]
    )
    names = _some(draw, ("log", "cache", "mail", "store"))
    return {"type": "object", "properties": {name: {"$ref": "#/$defs/section"} for name in names},
            "required": names[:1], "minProperties": 1, "$defs": {"section": section}}  # fmt: skip


FAMILIES: dict[str, Callable[[random.Random], Schema]] = {
    make.__name__: make
    for make in (
        record, foreign_keys, open_object, array, pair, choice, tagged, tree, chain, pattern, formatted, ranges,
        multiples, mapping, named_by_pattern, several_types, merged, shared, optional, call, settings,
    )
}  # fmt: skip
