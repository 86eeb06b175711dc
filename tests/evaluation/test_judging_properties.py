"""What holds for every answer: decoration changes nothing, denial is heard, numbers survive, time is linear."""

from __future__ import annotations

import time
from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.evaluation.judging import judge_text
from landrace.evaluation.labels import read_label
from landrace.evaluation.latex import parse
from landrace.evaluation.latex_tokens import ParseError
from landrace.evaluation.maths import same
from landrace.evaluation.number_answer import read_number
from landrace.evaluation.parsing import Normalisation
from landrace.evaluation.reading import strip_reasoning, unmarked
from landrace.evaluation.task import Fields, Task

LABELS = ("refund", "refund status", "check_in", "退款", "otkazivanje", "положительный", "إيجابي", "긍정", "θετικό")
NAMES = {label: label for label in LABELS}

label = st.sampled_from(LABELS)
decoration = st.sampled_from(
    ["{}", '"{}"', "**{}**", "`{}`", "({})", "«{}»", "“{}”.", "「{}」。", "- {}", "{}.", "{}!", " {} \n",
    "\\boxed{{{}}}",
     "\\boxed{{\\text{{{}}}}}", "<think>no idea</think>{}", "```\n{}\n```",
     '{{"label": "{}"}}', "Label: {}", "Answer: {}",
     "The final answer is {}.", "Ответ: {}", "答案：{}", "Die Antwort lautet {}.", "\u200b{}\u200b",
     "{}<|im_end|>"]
)  # fmt: skip
change = st.sampled_from(
    [str, str.upper, str.title, lambda text: text.replace("_", "-"), lambda text: text.replace(" ", "_")]
)


def outside(text: str) -> str:
    """What a reader of answers is given: without thoughts and marks."""
    return unmarked(strip_reasoning(text))


@given(label, decoration, change)
def test_decoration_and_letter_case_change_nothing(name: str, form: str, write: Any) -> None:
    assert read_label(outside(form.format(write(name))), NAMES).value == name


@given(label, decoration, decoration)
def test_decoration_of_decoration_changes_nothing_that_is_read(name: str, inner: str, outer: str) -> None:
    if "\n" not in inner and "think" not in inner and inner.count("{}") == 1 and ":" not in inner:
        assert read_label(outside(outer.format(inner.format(name))), NAMES).value in (name, None)


DENIALS = (
    "It is not {}.", "This isn't {}", "never {}", "neither {} nor anything else", "certainly not “{}”!",
    "not, to me, {}",
    "Das ist nicht {}.", "Es ist kein {}", "Ce n'est pas {}.", "No es {}.", "Não é {}.", "Non è {}.",
    "Он не {}.",
    "Није {}.", "Nije {}", "Nie jest {}", "Není {}", "{} değil", "Δεν είναι {}", "ليس {}", "זה לא {}",
    "{} नहीं है",
    "这不是{}", "{}ではありません", "{}이 아닙니다", "ไม่ใช่ {}", "Không phải {}", "Bukan {}", "Het is niet {}",
    "Det är inte {}", "Se ei ole {}", "Nem {}", "Nu este {}", "{} ist es nicht.", "{} would be wrong",
)  # fmt: skip


@given(label, st.sampled_from(DENIALS), st.booleans())
def test_a_denied_label_is_never_read(name: str, denial: str, named: bool) -> None:
    answer = denial.format(name)
    assert read_label(f"The answer: {answer}" if named else answer, NAMES).value is None


@given(label, label, st.sampled_from(DENIALS[:3]))
def test_the_label_behind_a_contrast_is_read(wrong: str, right: str, denial: str) -> None:
    if wrong != right:
        assert read_label(f"{denial.format(wrong).rstrip('.')} but {right}", NAMES).value == right


@given(label, label)
def test_two_labels_are_none(first: str, second: str) -> None:
    for joint in ("{} or {}", "{} und {}", "{} / {}", "{}\n{}", "between {} and {}"):
        read = read_label(joint.format(first, second), NAMES).value
        assert read is None or first == second


STYLES = (
    ("en", ",", "."), ("de", ".", ","), ("fr", "\u202f", ","), ("ru", " ", ","), ("de-CH", "'",
    "."), ("de-CH", "’", "."),
    ("en", "", "."), ("sr", "", ","), ("en", " ", "."), ("ar", "٬", "٫"), ("vi", ".", ","), ("ja", ",", "."),
)  # fmt: skip
DIGITS = ("0123456789", "٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹", "०१२३४५६७८९", "০১২৩৪৫৬৭৮৯", "๐๑๒๓๔๕๖๗๘๙", "０１２３４５６７８９")


@given(
    st.integers(-(10**12), 10**12), st.integers(0, 4), st.sampled_from(STYLES), st.sampled_from(DIGITS),
    st.sampled_from(["{}", "{}.", "**{}**", "${}", "{} €", "{}°C", "= {}", "The answer is {}.",
    "Ответ: {}", "\\boxed{{{}}}"]),
    st.sampled_from(["-", "−", "－"]),
)  # fmt: skip
def test_a_number_survives_its_writing(
    units: int, decimals: int, style: tuple[str, str, str], digits: str, form: str, minus: str
) -> None:
    language, group, mark = style
    value = Fraction(units, 10**decimals)
    if decimals == 3 and not group:
        return  # 1234.567 without grouping is 1234.567, but 1.234 in German is 1234: ambiguous by nature
    whole, part = divmod(abs(units), 10**decimals)
    text = f"{whole:,}".replace(",", group) + (mark + f"{part:0{decimals}}" if decimals else "")
    if decimals == 3 and abs(whole) < 1000 and mark in ".,":
        return
    text = text.translate(str.maketrans("0123456789", digits))
    answer = form.format((minus if units < 0 else "") + text)
    read = read_number(answer, language).value
    assert read is not None, answer
    assert Fraction(read) == value, answer


@given(st.integers(2, 999), st.integers(2, 999))
def test_what_is_part_of_something_else_is_no_number(first: int, second: int) -> None:
    for text in (
        f"{first}-{second}",
        f"{first} to {second}",
        f"not {first}",
        f"v{first}.{second}.1",
        f"{first} or {first + second}",
    ):
        assert read_number(text, "en").value is None, text


expression = st.recursive(
    st.one_of(st.integers(0, 99).map(str), st.sampled_from(["x", "y", "\\pi", "a"])),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: "({}+{})".format(*pair)),
        st.tuples(inner, inner).map(lambda pair: "({}-{})".format(*pair)),
        st.tuples(inner, inner).map(lambda pair: "{}\\cdot {}".format(*pair)),
        inner.map(lambda text: f"\\frac{{{text}}}{{7}}"),
        inner.map(lambda text: f"({text})^2"),
        inner.map(lambda text: f"\\sqrt{{({text})^2+1}}"),
    ),
    max_leaves=6,
)


@given(expression, expression)
def test_a_formula_equals_itself_however_it_is_turned(first: str, second: str) -> None:
    for one, other in (
        (f"{first}+{second}", f"{second}+{first}"),
        (f"({first})^2", f"({first})\\cdot({first})"),
        (f"({first}+{second})^2", f"({first})^2+2({first})({second})+({second})^2"),
    ):
        assert same(parse(one), parse(other)), (one, other)
    assert not same(parse(f"{first}+1"), parse(first))


TASKS = (
    Task("t", "classification", "{q}", labels=LABELS),
    Task("t", "classification", "{q}", labels=("A", "B", "C")),
    Task("t", "classification", "{q}", labels=("0", "1")),
    Task("t", "number", "{q}"),
    Task("t", "number", "{q}", language="de"),
    Task("t", "math", "{q}"),
    Task("t", "set", "{q}"),
    Task("t", "list", "{q}"),
    Task("t", "exact", "{q}"),
    Task("t", "contains", "{q}"),
    Task("t", "regex", "{q}", pattern="(?:x|(a))"),
    Task("t", "option", "{q}", fields=Fields(choices="options")),
)


def judged(task: Task, answer: str) -> Any:
    gold: Any = {"set": ["1", "2"], "list": ["a", "b"], "classification": task.labels[:1] and task.labels[0]}.get(
        task.kind, "1"
    )
    row = {"q": "?", "answer": "A" if task.kind == "option" else gold, "options": ["x", "y"]}
    return judge_text(task, task.from_rows([row]).rows[0], answer)


fragment = st.sampled_from(
    ["\\boxed{", "}", "$", "\\[", "\\frac", "{", "<think>", "</think>", "not ", "answer is ", ": ", "\n",
    "refund", "A", "1",
     "1,5", "½", "²", "^", "\\text{a}", "(", "[", ",", ".", "-", "–", "不", "是", "٣", "百", "e9", "\0",
     "\u200d", "İ", "ß", "\ud83d\ude00"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(fragment, max_size=20).map("".join)))
@settings(max_examples=300)
def test_no_answer_breaks_any_kind(answer: str) -> None:
    for task in TASKS:
        found = judged(task, answer)
        assert found.verdict in ("right", "wrong", "unparsed", "refused")
        assert (found.parsed is None) == (found.verdict in ("unparsed", "refused"))


@given(st.text(max_size=40))
def test_normalisation_settles_at_once(text: str) -> None:
    once = Normalisation().apply(text)
    assert Normalisation().apply(once) == once


LONG = (
    "a", "1,", "1 ", "-", ".", ":", ")", '"', "*", "\n", "$1", "\\boxed{", "\\[", "{", "not ", "not, ",
    "not refund ",
    "answer ", "answer: refund ", "no doubt ", "i can't ", "<think>", "<|a", "A) x\n", "1=", "so 1 ",
    "1/1", "退款", "百",
    "e\u0301", "\\text{", "1^1", "ich kann ", "x+",
)  # fmt: skip


@pytest.mark.parametrize("part", LONG)
def test_a_long_answer_takes_time_in_proportion(part: str) -> None:
    """Eight times the length may take a few times eight times as long; quadratic work would take sixty-four times."""
    for task in (TASKS[0], TASKS[1], TASKS[3], TASKS[5], TASKS[8]):
        took = []
        for size in (1_000, 8_000):
            answer = (part * (size // len(part) + 1))[:size]
            start = time.process_time()
            judged(task, answer)
            took.append(time.process_time() - start)
        assert took[1] < 28 * max(took[0], 0.02), (task.kind, part, took)


def test_deep_and_huge_formulas_end_at_once() -> None:
    for text in (
        "(" * 500 + "1" + ")" * 500,
        "-" * 1500 + "1",
        "\\sqrt" * 300 + "2",
        "2^" * 300 + "2",
        "|" * 400,
        "x" * 1999,
    ):
        with suppress(ParseError):
            same(parse(text), parse("1"))
