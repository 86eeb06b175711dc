"""The support-ticket data: its shape, its balance, and that train and test share no row and no template."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from likeness import FEWEST_UNITS, normalised, too_alike, units

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "support"
LANGUAGES = ("en", "vi", "sr", "zh")


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


INTENTS = words("booking cancellation refund payment deposit arrival keys repair cleaning noise extension amenities")
ROWS_PER_CELL = {"train": 12, "test": 5}
SPLITS = tuple(ROWS_PER_CELL)

CJK = re.compile(r"[\u4e00-\u9fff]")
VIETNAMESE = re.compile(r"[aeiouy][\u0300-\u0303\u0306\u0309\u031b\u0323]")  # decomposed: a vowel with its mark
SERBIAN = re.compile(r"[čćšž\u0400-\u04ff]")
# Small words that, of the four languages, only this one has: they tell rows typed without accents.
SMALL_WORDS = {
    "vi": words("cho em nha"),
    "sr": words("je se da na li mi za su bi koji koja sam nije ako jel kad od"),
    "en": words("the an we my our is are of in it you your and can with what wont again cancel"),
}


class Row(NamedTuple):
    id: str
    language: str
    text: str
    intent: str


def records(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@cache
def read(split: str) -> tuple[Row, ...]:
    return tuple(Row(**record) for record in records(split))


def across() -> Iterator[tuple[Row, Row]]:
    return product(read("train"), read("test"))


def copy_of(row: Row, text: str) -> Row:
    return row._replace(id=f"copy-{row.language}-0000", text=text)


def languages_of(text: str) -> set[str]:
    """The languages whose letters, or in rows typed without accents whose small words, the text has."""
    lower = text.casefold()
    if len(CJK.findall(lower)) >= len(lower) / 2:
        return {"zh"}
    if VIETNAMESE.search(unicodedata.normalize("NFD", lower)):
        return {"vi"}
    if SERBIAN.search(lower):
        return {"sr"}
    found = set(re.findall(r"\w+", lower))
    return {language for language, small in SMALL_WORDS.items() if found & small}


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_exactly_the_stated_fields(split: str) -> None:
    for number, record in enumerate(records(split), start=1):
        assert list(record) == ["id", "language", "text", "intent"], f"{split} line {number}"
        assert all(isinstance(value, str) and value == value.strip() != "" for value in record.values()), record
        assert re.fullmatch(rf"{split}-{record['language']}-\d{{4}}", record["id"]), record
        assert "\n" not in record["text"] and unicodedata.is_normalized("NFC", record["text"]), record


@pytest.mark.parametrize("split", SPLITS)
def test_files_are_readable_text_that_ends_with_a_newline(split: str) -> None:
    content = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8")
    assert content.endswith("}\n") and "\\u" not in content and "\r" not in content


@pytest.mark.parametrize("split", SPLITS)
def test_every_intent_in_every_language_has_the_same_number_of_rows(split: str) -> None:
    cells = Counter((row.language, row.intent) for row in read(split))
    assert cells == dict.fromkeys(product(LANGUAGES, INTENTS), ROWS_PER_CELL[split])


@pytest.mark.parametrize("split", SPLITS)
def test_any_beginning_of_a_file_is_balanced(split: str) -> None:
    rows, cells = read(split), len(LANGUAGES) * len(INTENTS)
    for start in range(0, len(rows), cells):
        assert len({(row.language, row.intent) for row in rows[start : start + cells]}) == cells


def test_ids_and_texts_are_unique() -> None:
    rows = read("train") + read("test")
    assert len({row.id for row in rows}) == len(rows)
    assert len({normalised(row.text) for row in rows}) == len(rows)


@pytest.mark.parametrize("split", SPLITS)
def test_lengths_are_those_of_short_messages_and_vary(split: str) -> None:
    for language in LANGUAGES:
        fewest, most = (5, 130) if language == "zh" else (4, 62)
        lengths = [len(units(row.text, language)) for row in read(split) if row.language == language]
        assert fewest <= min(lengths) and max(lengths) <= most
        assert len(set(lengths)) >= 15


@pytest.mark.parametrize("split", SPLITS)
def test_each_row_is_in_its_language(split: str) -> None:
    assert [row for row in read(split) if languages_of(row.text) != {row.language}] == []


@pytest.mark.parametrize("split", SPLITS)
def test_most_vietnamese_and_serbian_rows_carry_accents(split: str) -> None:
    vietnamese = [unicodedata.normalize("NFD", row.text.casefold()) for row in read(split) if row.language == "vi"]
    serbian = [row.text.casefold() for row in read(split) if row.language == "sr"]
    assert sum(bool(VIETNAMESE.search(text)) for text in vietnamese) >= 0.95 * len(vietnamese)
    assert sum(bool(SERBIAN.search(text)) for text in serbian) >= 0.75 * len(serbian)


def test_no_test_row_is_a_near_duplicate_of_a_training_row() -> None:
    assert too_alike(across()) == []


@pytest.mark.parametrize("split", SPLITS)
def test_no_near_duplicates_within_a_file(split: str) -> None:
    assert too_alike(combinations(read(split), 2)) == []


@pytest.mark.parametrize(
    ("language", "original", "filled"),
    [
        (
            "en",
            "Could we stay until Wednesday rather than Monday? The children don't want to leave.",
            "Could I stay until Friday rather than Tuesday? My grandparents don't want to leave.",
        ),
        (
            "en",
            "Please send an electrician; half of the sockets in the living room are dead.",
            "Please send a plumber, two of the taps in the upstairs bathroom are dead",
        ),
        (
            "vi",
            "Xe giường nằm tới lúc 5 rưỡi sáng, tụi em vô phòng sớm được không ạ?",
            "Máy bay tới lúc 9 rưỡi sáng, gia đình em vô căn hộ sớm được không ạ?",
        ),
        (
            "sr",
            "Otkažite molim vas naš boravak u Vrnjačkoj Banji, dete nam je dobilo boginje.",
            "Otkažite molim vas naš boravak na Zlatiboru, ćerka nam je dobila upalu pluća.",
        ),
        (
            "sr",
            "Može li još jedna noć, do ponedeljka? Sneg je zavejao put.",
            "Може ли још једна ноћ, до среде? Одрон је затворио пут.",
        ),
        ("zh", "支付宝付款一直提示风控失败,能不能换成银行转账?", "微信付款老是提示网络失败,能不能换成银行卡转账?"),
    ],
)
def test_a_slot_filled_copy_is_caught(language: str, original: str, filled: str) -> None:
    source = next(row for row in read("train") if units(row.text, language) == units(original, language))
    assert too_alike([(source, copy_of(source, filled))])


@pytest.mark.parametrize("split", SPLITS)
def test_any_row_with_a_third_of_its_words_replaced_is_caught(split: str) -> None:
    for row in read(split):
        parts = units(row.text, row.language)
        if len(parts) < FEWEST_UNITS[row.language]:
            continue
        filled = ["\u9f98" if i % 3 == 2 else part for i, part in enumerate(parts)]
        assert too_alike([(row, copy_of(row, " ".join(filled)))]), row


def test_any_row_with_other_numbers_case_and_punctuation_is_caught() -> None:
    for row in read("train"):
        changed = re.sub(r"\d+", "731", row.text).upper().replace(".", " ... ").replace(",", " - ")
        assert too_alike([(row, copy_of(row, changed))]), row


def test_any_row_repeated_inside_a_longer_one_is_caught() -> None:
    tails = {
        "en": "Thanks a lot and have a nice day.",
        "vi": "Cảm ơn bên mình nhiều lắm.",
        "sr": "Hvala unapred i prijatan dan.",
        "zh": "麻烦尽快回复,谢谢。",
    }
    for row in read("train"):
        assert too_alike([(row, copy_of(row, f"{row.text} {tails[row.language]}"))]), row


def test_unrelated_rows_are_not_caught() -> None:
    rows = [row for row in read("train") if row.intent in ("noise", "deposit") and row.language == "en"]
    assert too_alike((a, b) for a, b in combinations(rows, 2) if a.intent != b.intent) == []


def test_readme_lists_every_intent_and_the_counts() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE)) == INTENTS
    for split in SPLITS:
        assert f"| `{split}.jsonl` | {len(read(split))} | {ROWS_PER_CELL[split]} |" in readme
    assert "Apache-2.0" in readme
