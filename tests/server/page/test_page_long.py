"""A chat of 2,000 messages: what is drawn, and what a token costs, does not grow with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from documents import RICH

N = 2000
# Counts what changes anywhere but in the last message, and how many messages are drawn.
WATCH = """() => {
  window.elsewhere = 0;
  window.changes = 0;
  const list = document.querySelector('.messages');
  new MutationObserver((records) => {
    for (const record of records) {
      if (record.target === list) continue;
      window.changes += 1;
      if (![...list.querySelectorAll('.message')].at(-1).contains(record.target)) window.elsewhere += 1;
    }
  }).observe(list, { childList: true, subtree: true, characterData: true, attributes: true });
}"""


def long_chat(n: int) -> dict[str, Any]:
    """A chat of `n` messages, answers with code, tables and formulas."""
    messages = []
    for index in range(n):
        role, text = ("assistant", RICH) if index % 2 else ("user", f"Question {index}")
        parent = f"m{index - 1}" if index else None
        own = {"model": "baker", "finish": "stop"} if index % 2 else {}
        message = {"id": f"m{index}", "chat": "long", "parent": parent, "created": index, "role": role, "text": text}
        messages.append({**message, **own})
    chat = {"id": "long", "title": "Long", "created": 0, "updated": n, "model": "baker", "settings": {}, "chosen": {}}
    return {"format": "landrace-chats", "version": 1, "chats": [{**chat, "messages": messages}]}


@pytest.fixture
def long(chat: Any, tmp_path: Path) -> Any:
    chat.load(long_chat(N), tmp_path)
    chat.page.locator(".chats").get_by_role("button", name="Long").click()
    chat.expect(chat.page.locator(".message")).to_have_count(N)
    return chat


def test_only_what_is_near_the_screen_is_laid_out_as_markdown(long: Any) -> None:
    drawn = "document.querySelectorAll('.message .prose').length"
    long.page.wait_for_function(f"() => {drawn} > 0")
    assert long.page.evaluate(drawn) < 60
    scroller = long.page.locator(".scroller")
    assert scroller.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 100  # it opens at its end
    scroller.evaluate("e => e.scrollTop = 0")
    first = long.page.locator(".message.assistant").first
    long.expect(first.locator("h1")).to_have_text("Bread and numbers")
    assert long.page.evaluate(drawn) < 120


def test_a_found_message_in_the_middle_is_brought_to_the_screen(long: Any) -> None:
    """Though Enter comes at once: before 2,000 messages are looked through, the list has the chat itself."""
    long.page.keyboard.press("Control+k")
    field = long.page.get_by_role("combobox", name="Search all chats")
    long.expect(long.page.get_by_role("listbox").get_by_role("option")).to_have_text(["Long"])
    field.fill("Question 1000")
    field.press("Enter")
    long.expect(long.page.get_by_text("Question 1000", exact=True)).to_be_in_viewport()


def test_a_stream_changes_nothing_but_its_own_message(long: Any, stub: Any) -> None:
    """The server's model cannot hold so long a chat, so that a made-up answer stands in."""
    stub.answers_for(long.page)
    stub.says("Some words and *more* of them.\n\n" * 60, size=9)
    long.page.evaluate(WATCH)
    long.say("Go on")
    long.expect(long.prose).to_contain_text("of them.")
    assert long.page.evaluate("window.changes") > 0
    # The branch controls of neighbours are drawn again when a message is added, of the few that are drawn at all.
    assert long.page.evaluate("window.elsewhere") < 200


def test_going_back_to_a_long_branch_draws_what_is_on_the_screen(chat: Any, stub: Any, tmp_path: Path) -> None:
    chat.load(long_chat(60), tmp_path)
    chat.page.locator(".chats").get_by_role("button", name="Long").click()
    chat.page.locator(".scroller").evaluate("e => e.scrollTop = 0")
    stub.answers_for(chat.page)
    stub.says("Short.")
    third = chat.page.locator(".message.user").nth(1)
    chat.press("Edit message", within=third)
    chat.page.get_by_role("textbox", name="Edit message").fill("Another")
    chat.press("Send again")
    chat.expect(chat.page.locator(".message")).to_have_count(4)
    chat.settled()
    chat.press("Earlier branch", within=third)
    chat.expect(chat.page.locator(".message")).to_have_count(60)
    chat.page.locator(".scroller").evaluate("e => e.scrollTop = 0")
    chat.expect(chat.answers.nth(1).locator(".prose h1")).to_have_text("Bread and numbers")
