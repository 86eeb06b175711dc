"""Guides: every way through one ends in its language, and what cannot be enforced is refused by name."""

from __future__ import annotations

import datetime
import itertools
import json
import pickle
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from guided_text import accepts, allowed, plain_bytes, random_answer, small_vocabulary
from shared_vocabularies import byte_level_metadata

from landrace.errors import RequestError
from landrace.text import Tokenizer, tokenizer_from_gguf
from landrace.text.guides import Guide, check_guide, compiler, dates, schema

SEEDS = range(6)


@pytest.fixture(scope="module", params=[small_vocabulary, plain_bytes])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return small_vocabulary()


def short(**more: Any) -> dict[str, Any]:
    return {"type": "string", "maxLength": 6, **more}


def closed(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False, **more
    }  # fmt: skip


ENFORCED: dict[str, Any] = {
    "true": True,
    "type": {"type": "integer"},
    "types": {"type": ["null", "boolean", "integer"]},
    "enum": {"enum": ["a", "ab", 1, 1.5, None, True, [1, "x"], {"k": 2}]},
    "const": {"const": {"a": [1, {"b": "ü\n\"\\"}]}},
    "properties": closed({"a": {"type": "integer"}, "b": {"type": "boolean"}}),
    "required": closed({"a": {"type": "boolean"}, "b": {"type": "null"}}, "b"),
    "required and not described": {"type": "object", "required": ["x"], "additionalProperties": {"type": "null"}},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "patternProperties": {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}},
                          "additionalProperties": False},
    "minProperties": {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1},
    "maxProperties": {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2},
    "items": {"type": "array", "items": {"type": "boolean"}},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
    "minItems": {"type": "array", "items": {"type": "null"}, "minItems": 3},
    "maxItems": {"type": "array", "items": {"type": "null"}, "maxItems": 2},
    "minLength": {"type": "string", "minLength": 3, "maxLength": 9},
    "maxLength": {"type": "string", "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
    "pattern anywhere": {"type": "string", "pattern": "b{2}", "maxLength": 12},
    "minimum": {"type": "integer", "minimum": 17},
    "maximum": {"type": "number", "maximum": -2.5},
    "range": {"type": "integer", "minimum": -3, "maximum": 12},
    "range of numbers": {"type": "number", "minimum": 0.25, "maximum": 1.75},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 4, "maximum": 6},
    "exclusiveMaximum": {"type": "number", "exclusiveMaximum": 1, "minimum": 0},
    "multipleOf": {"type": "integer", "multipleOf": 7, "minimum": 0},
    "anyOf": {"anyOf": [{"type": "integer"}, {"const": "none"}]},
    "oneOf": {"oneOf": [{"type": "integer"}, short()]},
    "oneOf of others": {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "discriminator": {}, "$defs": {
        "a": closed({"kind": {"const": "a"}, "n": {"type": "integer"}}, "kind", "n"),
        "b": closed({"kind": {"const": "b"}, "rest": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "kind")}},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}},
    "$ref beside others": {"$ref": "#/$defs/a", "maximum": 5, "$defs": {"a": {"type": "integer", "minimum": 2}}},
    "a tree": {"$ref": "#/definitions/t", "definitions": {
        "t": closed({"v": {"type": "integer"}, "l": {"type": "array", "items": {"$ref": "#/definitions/t"}}}, "v")}},
    "names in need of escapes": closed({'a"\\\n/~ü': {"type": "null"}}, 'a"\\\n/~ü'),
    "annotations": {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://a.example/x",
                    "title": "t", "description": "d", "default": 3, "examples": [4], "$comment": "c",
                    "deprecated": True, "readOnly": True, "writeOnly": True, "type": "integer"},
    "formats": closed({name: {"type": "string", "format": name} for name in schema.FORMATS}, *schema.FORMATS[:4]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENFORCED)
def test_every_walk_ends_in_a_valid_answer(tokenizer: Tokenizer, name: str) -> None:
    guide = Guide.of_schema(ENFORCED[name])
    check_guide(guide, tokenizer)
    for seed in SEEDS:
        answer = random_answer(tokenizer, guide, seed)
        jsonschema.validate(json.loads(answer), ENFORCED[name], jsonschema.Draft202012Validator)


REFUSED: dict[str, Any] = {
    "not": {"type": "string"},
    "if": {"type": "string"},
    "then": {"type": "string"},
    "else": {"type": "string"},
    "contains": {"type": "integer"},
    "minContains": 1,
    "maxContains": 2,
    "uniqueItems": True,
    "propertyNames": {"maxLength": 3},
    "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {}},
    "dependencies": {"a": ["b"]},
    "unevaluatedItems": False,
    "unevaluatedProperties": False,
    "additionalItems": False,
    "$dynamicRef": "#x",
    "$dynamicAnchor": "x",
    "$recursiveRef": "#",
    "$vocabulary": {},
    "$id": "https://a.example/inner",
    "x-guidance": {"whitespace_flexible": True},
    "maxlength": 3,
}


@pytest.mark.parametrize("keyword", REFUSED)
def test_what_cannot_be_enforced_is_refused_by_its_name_and_place(words: Tokenizer, keyword: str) -> None:
    inner = {"type": "array", "items": closed({"a": {"type": "string", keyword: REFUSED[keyword]}})}
    with pytest.raises(RequestError, match=f"{re.escape(repr(keyword))} at #/items/properties/a cannot") as failure:
        check_guide(Guide.of_schema(inner), words)
    assert failure.value.field == "guide"


def test_every_keyword_of_the_standard_is_known() -> None:
    keywords = {
        name
        for url in ("core", "applicator", "unevaluated", "validation", "meta-data", "format-annotation", "content")
        for name in _vocabulary(url)
    }
    assert len(keywords) > 50
    known = set(schema._ENFORCED) | schema.ANNOTATIONS | set(REFUSED) | {"$schema"}
    assert keywords <= known


def _vocabulary(name: str) -> set[str]:
    from jsonschema_specifications import REGISTRY

    return set(REGISTRY.contents(f"https://json-schema.org/draft/2020-12/meta/{name}")["properties"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"type": "strnig"}, "#/type must be of"),
        ({"type": []}, "#/type must be of"),
        ({"properties": []}, "#/properties must be an object of schemas"),
        ({"properties": {"a/b": 3}}, "at #/properties/a~1b must be an object, true or false"),
        ({"items": [{}]}, "at #/items must be an object"),
        ({"anyOf": []}, "#/anyOf must be a list of schemas"),
        ({"enum": []}, "#/enum must be a list of values"),
        ({"required": "a"}, "#/required must be a list of strings"),
        ({"minLength": -1}, "#/minLength must be a whole number"),
        ({"minLength": True}, "#/minLength must be a whole number"),
        ({"minimum": "3"}, "#/minimum must be a number"),
        ({"minimum": 2**60}, "#/minimum has a number that is not exact"),
        ({"const": {"a": [2**53 + 1]}}, "#/const has a number that is not exact"),
        ({"multipleOf": 0}, "#/multipleOf must be greater than 0"),
        ({"pattern": 3}, "#/pattern must be a string"),
        ({"format": "idn-email"}, "#/format is 'idn-email'; formats that can be enforced are date-time"),
        ({"$ref": "https://a.example/x"}, "#/\\$ref leads to 'https://a.example/x', outside"),
        ({"$ref": "#anchor"}, "#/\\$ref leads to '#anchor', outside of the schema or to an anchor"),
        ({"$ref": "#/$defs/b", "$defs": {"a": True}}, "#/\\$ref leads to #/\\$defs/b, where there is no schema"),
        ({"$ref": "#"}, "No answer is in the guide's language"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "\\$schema is .*draft-04.*not known"),
        ({"type": "object", "minProperties": 2}, "minProperties at # asks for 2"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "cannot be followed"),
        ({"type": "string", "pattern": "(?=a)b"}, "cannot be followed"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        (False, "is false: no answer is valid"),
        ({"properties": {f"p{n}": {} for n in range(513)}}, "#/properties has more than 512"),
        ({"enum": list(range(schema.MAX_VALUES + 1))}, "more than 16384 values"),
    ],
)  # fmt: skip
def test_a_schema_that_is_none_or_too_large_is_refused_in_a_sentence(words: Tokenizer, wrong: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said) as failure:
        check_guide(Guide.of_schema(wrong), words)
    assert failure.value.field == "guide"


def test_options_of_options_take_bounded_room(words: Tokenizer) -> None:
    levels: dict[str, Any] = {
        f"l{n}": {"oneOf": [{"$ref": f"#/$defs/l{n + 1}"}, {"$ref": f"#/$defs/l{n + 1}"}]} for n in range(300)
    }
    for defs in (levels, dict(reversed(levels.items()))):
        hostile = {"$ref": "#/$defs/l0", "$defs": {**defs, "l300": {"type": "null"}}}
        assert len(json.dumps(schema.checked_schema(json.dumps(hostile)))) < 400_000
    itself = {"$ref": "#/$defs/b", "$defs": {"b": {"oneOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]}}}
    with pytest.raises(RequestError, match="oneOf"):
        check_guide(Guide.of_schema(itself), words)


def test_depth_is_bounded(words: Tokenizer) -> None:
    deep: Any = {"type": "null"}
    for _ in range(schema.MAX_DEPTH // 2 - 1):
        deep = closed({"a": {"anyOf": [deep, {"type": "null"}]}}, "a")
    check_guide(Guide.of_schema(deep), words)
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    with pytest.raises(RequestError, match="nested deeper than 40 at #/items/items"):
        check_guide(Guide.of_schema(deep), words)
    deep = None
    for _ in range(300):
        deep = [deep]
    with pytest.raises(RequestError, match=r"guide|schema"):
        check_guide(Guide.of_schema({"const": deep}), words)


PATTERNS = [r"[a-z]{3}-\d{2}", r"(yes|no)( or (yes|no))?", r"a*b", r"^ab$", r"[a-f_]{2,4}\\s?", r"[^\n]{0,5}!", "é+x"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_walks_match_the_pattern_as_a_whole(tokenizer: Tokenizer, pattern: str) -> None:
    for seed in SEEDS:
        answer = random_answer(tokenizer, Guide.of_regex(pattern), seed, patience=10)
        assert re.fullmatch(pattern, answer), answer


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(", "a{2,1}", "(" * 500 + ")" * 500])
def test_a_pattern_that_is_none_is_refused(words: Tokenizer, pattern: str) -> None:
    with pytest.raises(RequestError, match="cannot be followed"):
        check_guide(Guide.of_regex(pattern), words)


CHOICES = ["yes", "no", "no, never", 'a "quote"', "back\\slash", "two\nlines", "(.*)", "ünïcode", " space "]


def test_walks_end_in_a_choice(tokenizer: Tokenizer) -> None:
    guide = Guide.of_choices(CHOICES)
    said = {random_answer(tokenizer, guide, seed) for seed in range(60)}
    assert said == set(CHOICES)
    assert all(accepts(tokenizer, guide, text) for text in CHOICES)
    assert not accepts(tokenizer, guide, "no, nev")


@pytest.mark.parametrize("wrong", [[], [""], ["a", 3]])
def test_choices_are_texts(words: Tokenizer, wrong: list[Any]) -> None:
    with pytest.raises(RequestError, match="choices must be texts"):
        check_guide(Guide.of_choices(wrong), words)


def test_sizes_are_bounded(words: Tokenizer) -> None:
    with pytest.raises(RequestError, match=f"most is {compiler.MAX_CHOICES}"):
        check_guide(Guide.of_choices([f"c{n}" for n in range(compiler.MAX_CHOICES + 1)]), words)
    with pytest.raises(RequestError, match=f"the most is {compiler.MAX_BYTES}"):
        check_guide(Guide.of_regex("a" * (compiler.MAX_BYTES + 1)), words)
    with pytest.raises(RequestError, match=r"not Unicode"):
        check_guide(Guide.of_regex("\ud800"), words)


def test_a_lark_grammar(tokenizer: Tokenizer) -> None:
    guide = Guide.of_lark('start: sum\nsum: NUMBER | sum "+" NUMBER | "(" sum ")"\nNUMBER: /[0-9]{1,3}/')
    for seed in SEEDS:
        answer = random_answer(tokenizer, guide, seed, patience=30)
        assert eval(re.sub(r"\b0+(?=\d)", "", answer)) >= 0
    with pytest.raises(RequestError, match=r"cannot be followed.*unknown"):
        check_guide(Guide.of_lark("start: missing"), tokenizer)


def test_any_object(tokenizer: Tokenizer) -> None:
    for seed in SEEDS:
        assert isinstance(json.loads(random_answer(tokenizer, Guide.of_json_object(), seed, patience=30)), dict)


def test_no_control_token_is_ever_allowed_as_text(words: Tokenizer) -> None:
    walk = words.guides.walk(Guide.of_regex("(?s:.*)"))
    assert words.control_ids & set(allowed(walk)) == words.eos_ids


def test_a_vocabulary_without_an_end(words: Tokenizer) -> None:
    endless = Tokenizer(words.backend, replace(words.conventions, eos_ids=frozenset()))
    for seed in SEEDS:
        assert random_answer(endless, Guide.of_choices(["yes", "no"]), seed) in ("yes", "no")
    walk = endless.guides.walk(Guide.of_regex("a*"))
    assert allowed(walk) and max(allowed(walk)) < endless.vocab_size


def test_tokens_that_only_fill_up_a_file_are_no_text() -> None:
    metadata = byte_level_metadata(small_vocabulary(), "gpt-2")
    metadata["tokenizer.ggml.tokens"] += [f"[PAD{n}]" for n in range(3)]
    metadata["tokenizer.ggml.token_type"] += [5] * 3
    padded = tokenizer_from_gguf(metadata)
    walk = padded.guides.walk(Guide.of_regex("(?s:.*)"))
    assert max(allowed(walk)) < padded.vocab_size - 3
    assert padded.token_bytes(padded.vocab_size - 1) == b"[PAD2]"


def test_forced_tokens_are_those_of_the_text_itself(words: Tokenizer) -> None:
    walk = words.guides.walk(Guide.of_schema(closed({"intent": {"const": "refund"}}, "intent")))
    ids = []
    while not walk.complete:
        assert walk.forced, words.decode(ids)
        ids.append(walk.forced[0])
        walk.record(ids[-1])
    assert ids == words.encode('{"intent": "refund"}', add_bos=False)


def test_a_copy_goes_its_own_way(words: Tokenizer) -> None:
    from copy import copy

    walk = words.guides.walk(Guide.of_choices(["yes, so", "no, so", "nobody"]))
    other = copy(walk)
    (yes,) = words.encode("y", add_bos=False)
    other.record(yes)
    assert other.forced and not walk.forced and yes in allowed(walk)
    (wrong,) = words.encode("x", add_bos=False)
    broken = copy(walk)
    broken.record(wrong)
    assert broken.error is not None and allowed(broken) == [] and not broken.forced and not broken.complete
    assert walk.error is None


def test_equal_guides_are_compiled_once(words: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    guides = compiler.GuideCompiler(words)
    count = []
    compiled = guides._compile
    monkeypatch.setattr(guides, "_compile", lambda guide: count.append(guide) or compiled(guide))
    for _ in range(3):
        guides.walk(Guide.of_choices(["a", "b"]))
        guides.check(Guide.of_choices(["a", "b"]))
    assert len(count) == 1
    for n in range(compiler.KEPT):
        guides.check(Guide.of_choices([f"{n}"]))
    guides.check(Guide.of_choices(["a", "b"]))
    assert len(count) == 2 + compiler.KEPT


def test_a_guide_travels(words: Tokenizer) -> None:
    guide = Guide.of_schema({"type": "integer"})
    assert pickle.loads(pickle.dumps(guide)) == guide
    with pytest.raises(RequestError, match="not JSON"):
        Guide.of_schema({"const": float("nan")})
    with pytest.raises(RequestError, match="not JSON"):
        check_guide(Guide("json_schema", "{"), words)


def test_days_are_those_of_the_calendar() -> None:
    day = re.compile(dates.PATTERNS["date"])
    for year in (1, 4, 99, 100, 400, 1900, 1999, 2000, 2024, 2026, 2100, 9999):
        for month, number in itertools.product(range(14), range(33)):
            text = f"{year:04}-{month:02}-{number:02}"
            try:
                exists = bool(datetime.date.fromisoformat(text))
            except ValueError:
                exists = False
            assert bool(day.match(text)) == exists, text
    assert not day.match("0000-01-01") and not day.match("0000-02-29")


@pytest.mark.parametrize(("form", "rest"), [("date", ""), ("date-time", "T10:00:00Z")], ids=["date", "date-time"])
def test_no_day_that_does_not_exist_can_be_written(form: str, rest: str, words: Tokenizer) -> None:
    schemas = [{"type": ["string", "null"], "format": form}, {"type": "string", "format": form, "pattern": "-0"}]
    for one in schemas:
        for text, exists in (("2024-02-29", True), ("2026-02-29", False), ("2026-04-31", False), ("2026-02-03", True)):
            walk = words.guides.walk(Guide.of_schema(one))
            for token in words.encode(json.dumps(text + rest), add_bos=False):
                if not walk.allows(token):
                    break
                walk.record(token)
            assert walk.complete == exists, (one, text)
