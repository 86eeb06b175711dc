"""Stop strings against a naive search of the full text after every piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from landrace.engine.stopping import StopText


def naive(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    text = ""
    for piece in pieces:
        text += piece
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)], True
    return text, False


few_letters = st.text(alphabet="ab🙂", max_size=6)


@given(st.lists(few_letters, max_size=12), st.lists(few_letters.filter(bool), max_size=4))
def test_equals_the_naive_search(pieces: list[str], stops: list[str]) -> None:
    matcher = StopText(stops)
    emitted = ""
    for index, piece in enumerate(pieces):
        emitted += matcher.push(piece)
        seen = "".join(pieces[: index + 1])
        if matcher.matched:
            break
        held = seen[len(emitted) :]
        assert seen == emitted + held
        assert not held or any(stop.startswith(held) for stop in stops), "only a possible stop string is held back"
    emitted += matcher.flush()
    assert (emitted, matcher.matched is not None) == naive(pieces, stops)
    assert matcher.matched is None or "".join(pieces).startswith(emitted + matcher.matched)


def test_nothing_comes_after_a_match() -> None:
    matcher = StopText(["END"])
    assert [matcher.push(piece) for piece in ("one E", "N", "D two", "three")] == ["one ", "", "", ""]
    assert matcher.matched == "END" and matcher.flush() == ""


def test_a_false_start_is_let_go() -> None:
    matcher = StopText(["\n\nUser:"])
    assert [matcher.push(piece) for piece in ("a\n", "\n", "User", " b")] == ["a", "", "", "\n\nUser b"]
