"""What is guessed of a text, and how a drafter turns itself down: without a model, in made-up prices of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import SupportsIndex, overload

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landrace.engine.drafter import GRAMS, READ_AT_ONCE, Drafter
from landrace.engine.step_times import StepTimes

BLOCK = 16
PRICES: dict[str, Callable[[int], float]] = {
    "free": lambda rows: 1 + 0.02 * (rows - 1),
    "cheap": lambda rows: 1 + 0.1 * (rows - 1),
    "dear from the fourth": lambda rows: 1 + 0.05 * (rows - 1) + 0.3 * max(0, rows - 3),
    "half a step": lambda rows: 1 + 0.5 * (rows - 1),
    "a whole step": lambda rows: float(rows),
}
PROMPT = [Random(3).randrange(1000) for _ in range(400)]


class Free(StepTimes):
    """A step takes as long with drafts as without."""

    most_rows = 1000

    def seconds(self, rows: int) -> float:
        return 1.0


def read(tokens: Sequence[int], n_prompt: int | None = None) -> Drafter:
    drafter = Drafter(tokens, len(tokens) if n_prompt is None else n_prompt)
    for _ in range(0, len(tokens), READ_AT_ONCE):
        drafter.read()
    return drafter


def guess_at(tokens: Sequence[int]) -> tuple[int, int]:
    """Where the guess stands and how long its match is, looked for from the start for every token."""
    source = match = 0
    for end in range(1, len(tokens) + 1):
        right = match > 0 and tokens[source] == tokens[end - 1]
        source, match = (source + 1, match + 1) if right else (0, 0)
        for n in GRAMS:
            places = [p for p in range(n, end) if list(tokens[p - n : p]) == list(tokens[end - n : end])]
            if places and match < n <= end:
                source, match = places[-1], n
    return source, match


def decode(
    text: Sequence[int], n_prompt: int, price: Callable[[int], float], *, block: int = BLOCK
) -> tuple[float, int, int]:
    """The rest of a text, decoded with drafts: how many times as fast as without, tokens drafted and right ones."""
    tokens = list(text[:n_prompt])
    drafter, times = read(tokens), StepTimes()
    spent, proposed, accepted = 0.0, 0, 0
    while len(tokens) < len(text):
        drafter.read()
        rest = text[len(tokens) :]
        draft, _ = drafter.draft(min(-len(tokens) % block, len(rest) - 1), 1, 1.0, times)
        right = next((n for n, guess in enumerate(draft) if guess != rest[n]), len(draft))
        spent += price(1 + len(draft))
        times.note(1 + len(draft), price(1 + len(draft)))
        proposed, accepted = proposed + len(draft), accepted + right
        tokens += rest[: right + 1]
    return (len(text) - n_prompt) * price(1) / spent, proposed, accepted


@settings(max_examples=300)
@given(st.lists(st.integers(0, 3), max_size=40))
def test_the_guess_follows_the_longest_gram_at_its_latest_place(tokens: list[int]) -> None:
    drafter = read(tokens)
    source, match = guess_at(tokens)
    draft, _ = drafter.draft(5, 1, 1.0, Free())
    if match == 0:
        assert draft == []
        return
    assert tokens[source - match : source] == tokens[len(tokens) - match :]
    followed = list(tokens)
    for token in draft:
        assert token == followed[source]
        followed.append(token)
        source += 1


def test_a_loop_is_guessed_beyond_its_end() -> None:
    drafter = read([9, 8, 1, 2, 3] + [1, 2, 3] * 5)
    draft, right = drafter.draft(8, 1, 1.0, Free())
    assert draft == [1, 2, 3, 1, 2, 3, 1, 2]
    assert 4 < right < 8


def test_no_room_no_draft() -> None:
    assert read([1, 2, 3] * 9).draft(0, 1, 1.0, Free()) == ([], 0.0)


class Counted(list[int]):
    """Tokens that count how many of them were looked at."""

    looked_at = 0

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> int | list[int]:
        found = super().__getitem__(index)
        self.looked_at += len(found) if isinstance(found, list) else 1
        return found


def test_a_long_prompt_is_read_in_parts_and_never_again() -> None:
    random = Random(1)
    tokens = Counted(random.randrange(50) for _ in range(100_000))
    drafter = Drafter(tokens, len(tokens))
    drafter.read()
    assert tokens.looked_at < 20 * READ_AT_ONCE
    assert drafter.draft(8, 1, 1.0, Free()) == ([], 0.0), "it has not read what comes last"
    while drafter._n_read < len(tokens):
        drafter.read()
    tokens.looked_at = 0
    for _ in range(4000):
        tokens.append(random.randrange(50))
        drafter.read()
        drafter.draft(8, 1, 1.0, Free())
    assert tokens.looked_at < 4000 * 30


@pytest.mark.parametrize("price", PRICES)
def test_a_copy_is_drafted(price: str) -> None:
    answer = [*PROMPT[50:150], 7, 7, *PROMPT[155:300]]
    speed, proposed, accepted = decode(PROMPT + answer, len(PROMPT), PRICES[price])
    least = {"free": 4.5, "cheap": 3.0, "dear from the fourth": 1.9, "half a step": 1.3, "a whole step": 0.99}
    assert speed > least[price]
    assert accepted >= 0.9 * proposed
    assert price == "a whole step" or accepted > 50


def texts_without_use() -> dict[str, list[int]]:
    """Answers that offer many guesses, nearly all wrong."""
    random = Random(2)
    pairs = [(random.randrange(20), random.randrange(20)) for _ in range(12)]
    return {
        "nothing repeats": [1000 + n for n in range(500)],
        "few tokens, at random": [random.randrange(30) for _ in range(500)],
        "the same pairs, then something else": [
            token for n in range(170) for token in (*pairs[random.randrange(12)], 1000 + n)
        ],
        "parts of the prompt, cut short": [
            token
            for n in range(100)
            for token in (*PROMPT[random.randrange(300) :][: random.randrange(1, 7)], 1000 + n)
        ],
    }


@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("text", texts_without_use())
def test_a_text_that_does_not_repeat_is_not_slowed_down(text: str, price: str) -> None:
    speed, _, _ = decode(PROMPT + texts_without_use()[text], len(PROMPT), PRICES[price])
    assert speed >= 0.97


def test_it_falls_silent_where_guesses_are_wrong_and_speaks_again_where_they_would_be_right() -> None:
    silent = [token for n in range(200) for token in (2000 + n % 8, 1000 + n)]
    first = decode(PROMPT + silent[:100], len(PROMPT), PRICES["cheap"])[1]
    assert decode(PROMPT + silent, len(PROMPT), PRICES["cheap"])[1] - first <= 3
    _, proposed, accepted = decode(PROMPT + silent + PROMPT[20:120], len(PROMPT), PRICES["cheap"])
    assert accepted > 60 and proposed < accepted + first + 20


def test_where_rows_are_many_a_draft_must_be_surer() -> None:
    """Beside other streams a row costs more of what a step yields."""
    times = StepTimes()
    for rows in (1, 40):
        times.note(rows, PRICES["cheap"](rows))
    drafter = read([*PROMPT, *PROMPT[30:33]])
    alone, _ = drafter.draft(15, 1, 1.0, times)
    beside, _ = drafter.draft(15, 20, 20.0, times)
    assert len(alone) > len(beside)


def test_times_lie_on_straight_lines_between_what_was_measured() -> None:
    times = StepTimes()
    assert times.most_rows == 0, "nothing is known"
    times.note(1, 10.0)
    assert times.most_rows == 2
    assert times.seconds(1) == 10 < times.seconds(2) < times.seconds(9)
    for _ in range(50):
        times.note(5, 18.0)
        times.note(9, 58.0)
    assert times.seconds(3) == pytest.approx(14, rel=0.01)
    assert times.seconds(7) == pytest.approx(38, rel=0.01)
    assert times.seconds(17) == pytest.approx(106, rel=0.01)
    assert times.most_rows == 18


def test_one_slow_step_moves_an_estimate_only_so_far() -> None:
    times = StepTimes()
    for _ in range(10):
        times.note(1, 1.0)
    times.note(1, 1000.0)
    assert times.seconds(1) < 2
    times.note(4, 1000.0)
    assert times.seconds(4) < 6
    for _ in range(100):
        times.note(1, 3.0)
    assert times.seconds(1) == pytest.approx(3.0, rel=0.01)
