"""What becomes of a model's text: laid out as Markdown, the same streamed and whole, and never a part of the page."""

from __future__ import annotations

from typing import Any

import pytest
from documents import ATTACK, DOCUMENTS

PROSE = "element => element.innerHTML"
REFERENCES = "See [the notes][n] and `x`.\n\n- one\n\n- two\n\nEnd.\n\n[n]: https://example.org/n\n"
FENCES = (
    "Before.\n\n````md\n```py\nprint('`')\n```\n````\n\n~~~\nplain ``` text\n~~~\nAfter `a`.\n\n"
    "```py\nx = 1\n\n\ny = 2\n```\n| a | b |\n|---|---|\n| 1 | 2 |\n\n1. one\n   ```sh\n   ls\n   ```\n2. two\n\n"
    "$$\nx^2\n$$\n\nA $y$ here.\n```\nopen to the end"
)
CODE = "\n```python\n" + "".join(f"line_{n} = {n}\n" for n in range(60)) + "```\n"


def test_markdown_is_laid_out(chat: Any) -> None:
    chat.say("Bread? 1")
    prose = chat.prose
    chat.expect(prose.locator("h1")).to_have_text("Bread and numbers")
    chat.expect(prose.locator("strong")).to_have_text("sourdough")
    chat.expect(prose.locator("ul > li > ol > li")).to_have_count(2)
    chat.expect(prose.locator("li input:checked")).to_have_count(1)
    chat.expect(prose.locator("tbody tr")).to_have_count(2)
    chat.expect(prose.locator("blockquote")).to_contain_text("Patience")
    chat.expect(prose.locator("figcaption")).to_contain_text("python")
    chat.expect(prose.locator(".hljs-keyword").first).to_have_text("def")
    chat.expect(prose.get_by_text("Lunch costs $5 today and $6 tomorrow.")).to_be_visible()
    link = prose.get_by_role("link", name="the notes")
    assert "noopener" in link.get_attribute("rel") and link.get_attribute("href") == "https://example.org/notes"


def test_formulas_are_drawn_and_can_be_read_out(chat: Any) -> None:
    chat.say("Bread? 1")
    chat.expect(chat.prose.locator(".formula")).to_have_count(2)
    chat.expect(chat.prose.locator(".formula.display math")).to_have_count(1)
    chat.expect(chat.prose.locator("code.maths")).to_have_count(0)


def test_each_block_runs_in_its_own_direction(chat: Any) -> None:
    chat.say("Bread? 1")
    direction = "element => getComputedStyle(element).direction"
    assert chat.prose.get_by_text("من اليمين").evaluate(direction) == "rtl"
    assert chat.prose.get_by_text("Patience").evaluate(direction) == "ltr"
    chat.message.fill("שלום עולם")
    assert chat.message.evaluate(direction) == "rtl"
    assert chat.prose.locator("pre").evaluate(direction) == "ltr"


@pytest.mark.parametrize("number", ["1", "5"])
def test_what_came_in_pieces_looks_as_what_is_drawn_at_once(chat: Any, number: str) -> None:
    chat.say(f"Show {number}")
    chat.expect(chat.prose.locator("code.maths")).to_have_count(0)
    streamed = chat.prose.evaluate(PROSE)
    chat.reload()
    chat.expect(chat.prose.locator("code.maths")).to_have_count(0)
    chat.page.wait_for_function("expected => document.querySelector('.prose').innerHTML === expected", arg=streamed)


@pytest.mark.parametrize(
    "text", [REFERENCES, FENCES, CODE, DOCUMENTS["1"]], ids=["references", "fences", "code", "rich"]
)
def test_it_does_not_matter_where_the_pieces_end(chat: Any, stub: Any, text: str) -> None:
    stub.answers_for(chat.page)
    shown = set()
    for size in (1, 2, 7, len(text)):
        stub.replies.clear()
        stub.says(text, size=size)
        chat.say("Write.")
        chat.page.wait_for_function("() => !document.querySelector('.message:last-child code.maths')")
        chat.page.wait_for_timeout(50)  # for colours of code, which come behind the answer
        shown.add(chat.prose.evaluate(PROSE))
    assert len(shown) == 1


def test_text_that_attacks_is_shown_as_text(chat: Any) -> None:
    chat.say("Attack! 5")
    attacked(chat)
    chat.reload()
    attacked(chat)
    chat.say(ATTACK.replace("\n", " ") + " 2")  # in a question, and in the title of the chat
    chat.press("Edit message", within=chat.page.locator(".message.user").last)
    chat.page.keyboard.press("Escape")
    chat.page.keyboard.press("Control+k")
    chat.page.get_by_role("combobox", name="Search all chats").fill("onerror")
    chat.expect(chat.page.get_by_role("dialog").get_by_role("option").first).to_be_visible()
    chat.page.keyboard.press("Escape")
    attacked(chat)


def attacked(chat: Any) -> None:
    chat.expect(chat.page.get_by_text("<img src=x onerror=", exact=False).first).to_be_visible()
    assert "owned" not in chat.page.title()
    inside = chat.page.locator(".prose").first
    assert inside.locator("img, script, iframe, form, style, base, object, embed, [onerror], [onload]").count() == 0
    links = inside.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert all(link.startswith("https://") for link in links)
    for link in inside.get_by_text("click").all():
        link.click()
    assert chat.page.evaluate("document.title").find("owned") == -1
    assert chat.page.evaluate("getComputedStyle(document.body).display") != "none"


def test_the_policy_itself_stops_what_would_get_through(chat: Any) -> None:
    """The last wall: were markup let in somewhere, it would not run."""
    raised = chat.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.name; } }"
    )
    assert raised == "TypeError"
    chat.page.evaluate(
        "() => { const script = document.createElement('script'); script.append('window.ran = true');"
        " try { document.head.append(script); } catch {} }"
    )
    assert chat.page.evaluate("window.ran") is None
    chat.page.evaluate("window.violations.length = 0")  # these were ours
