"""Reading answers: what is accepted, and above all what is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.evaluation.labels import read_label
from landrace.evaluation.parsing import Normalisation, parse_pattern, parse_text
from landrace.evaluation.reading import strip_reasoning

PLAIN = Normalisation()


def parse_label(text: str, labels: tuple[str, ...], normalisation: Normalisation) -> str | None:
    names = {label: label for label in labels}
    return read_label(strip_reasoning(text), names, casefold=normalisation.casefold).value


LABELS = ("refund", "refund_status", "check_in", "退款", "otkazivanje", "hủy_phòng")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("refund", "refund"),
        ("  Refund.\n", "refund"),
        ("**refund**", "refund"),
        ("«REFUND»", "refund"),
        ("The intent is refund.", "refund"),
        ("refund\n\ncheck_in would be wrong", "refund"),
        ("It is refund_status", "refund_status"),
        ("这是退款。", "退款"),
        ("Namera: Otkazivanje", "otkazivanje"),
        ("hu\u0309y_pho\u0300ng", "hủy_phòng"),
        ("<think>check_in? no</think>refund", "refund"),
        ("check_in or so</think>refund", "refund"),
    ],
)
def test_labels_that_can_be_read(answer: str, label: str) -> None:
    assert parse_label(answer, LABELS, PLAIN) == label


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\n",
        "refund or check_in",
        "refunds",
        "refund_status_2",
        "unrefund",
        "Let me see.\nrefund",
        "<think>refund",
        "<think>refund\nit is",
        "I cannot say",
        "退 款",
    ],
)
def test_answers_that_name_no_label_or_several(answer: str) -> None:
    assert parse_label(answer, LABELS, PLAIN) is None


def test_a_label_inside_a_longer_one_counts_only_where_it_stands_alone() -> None:
    assert parse_label("refund_status, not refund", LABELS, PLAIN) == "refund_status"
    assert parse_label("card arrival", ("card", "card arrival"), PLAIN) == "card arrival"
    assert parse_label("my card arrival", ("card", "card arrival"), PLAIN) == "card arrival"


def test_letter_case_can_matter() -> None:
    exact = Normalisation(casefold=False)
    assert parse_label("Refund", ("refund", "Refund"), exact) == "Refund"
    assert parse_label("REFUND", ("refund", "Refund"), exact) is None


@given(st.text(max_size=80))
def test_any_text_gives_a_label_or_none(answer: str) -> None:
    assert parse_label(answer, LABELS, PLAIN) in (*LABELS, None)


@given(st.sampled_from(LABELS), st.sampled_from(["", " ", "\n", "."]), st.sampled_from(["", ".", "!", "\nmore", " \n"]))
def test_every_label_is_read_from_its_own_text(label: str, before: str, after: str) -> None:
    assert parse_label(before + label + after, LABELS, PLAIN) == label


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (' "Yes!" ', "yes"),
        ("-5", "-5"),
        ("(-5.2)", "-5.2"),
        ("-.5", "-0.5"),
        ("- five", "five"),
        ("C++", "c++"),
        ("Straße", "strasse"),
        ("「好」。", "好"),
        ("...", ""),
        ("a\nb", "a\nb"),
        ("$5.00", "$5.00"),
    ],
)
def test_normalised_text(text: str, plain: str) -> None:
    assert PLAIN.apply(text) == plain


@given(st.text(max_size=40), st.booleans(), st.booleans(), st.booleans())
def test_normalising_twice_changes_nothing(text: str, casefold: bool, punctuation: bool, first_line: bool) -> None:
    normalisation = Normalisation(casefold, punctuation, first_line)
    once = normalisation.apply(text)
    assert normalisation.apply(once) == once


def test_the_options_of_normalisation() -> None:
    assert Normalisation(casefold=False, strip_punctuation=False).apply(" Yes! ") == "Yes!"
    assert Normalisation(first_line=True).apply("\n one\n two") == "one"
    assert parse_text(" ... ", PLAIN) is None


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        ("<think>a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("a</think>b", "b"),
        ("<think>a", ""),
        ("b<think>a", "b"),
        ("<think></think>", ""),
        ("plain", "plain"),
    ],
)
def test_reasoning_is_dropped(answer: str, rest: str) -> None:
    assert strip_reasoning(answer) == rest


def test_the_last_match_of_a_pattern_is_the_answer() -> None:
    pattern = re.compile(r"#### (-?[\d,.]+)")
    assert parse_pattern("#### 5 no wait\n#### -1,200.", pattern, PLAIN) == "-1,200"
    assert parse_pattern("five", pattern, PLAIN) is None
    assert parse_pattern("ab", re.compile("a(x)?b"), PLAIN) is None
