"""The page for everybody: by keyboard alone, read out, in both themes, on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).resolve().parents[3] / "web" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def violations(chat: Any) -> list[str]:
    """What axe-core finds that keeps somebody out."""
    if not AXE.exists():
        pytest.skip("needs axe-core: npm ci in web/")
    chat.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = chat.page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
    return [
        f"{one['id']}: {node['html'][:160]} {node['any'][0]['message'][:160] if node['any'] else ''}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_keeps_anybody_out(new_chat_page: Callable[..., Any], theme: str) -> None:
    chat = new_chat_page(color_scheme=theme, reduced_motion="reduce")
    assert violations(chat) == []
    chat.say("Bread? 1")
    chat.say("Which colour? 2")
    chat.answers.last.locator(".thoughts summary").click()
    chat.page.locator(".scroller").evaluate("element => element.scrollTop = 0")
    chat.expect(chat.page.locator(".formula.display").first).to_be_attached()
    assert violations(chat) == []
    chat.open_settings()
    assert violations(chat) == []
    chat.press("Keyboard and privacy")
    assert violations(chat) == []
    chat.page.keyboard.press("Escape")
    chat.page.keyboard.press("Control+k")
    chat.expect(chat.page.get_by_role("listbox").get_by_role("option").first).to_be_visible()
    assert violations(chat) == []
    chat.page.keyboard.press("Escape")
    chat.say("x" * 3000)
    assert violations(chat) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_comparison_keeps_nobody_out(new_chat_page: Callable[..., Any], theme: str) -> None:
    chat = new_chat_page(color_scheme=theme, reduced_motion="reduce")
    chat.press("Compare two models")
    assert violations(chat) == []
    chat.press("Start")
    chat.message.fill("Which colour? 2")
    chat.message.press("Enter")
    chat.expect(chat.page.get_by_role("button", name="Left is better")).to_be_visible()
    assert violations(chat) == []


def focused(chat: Any) -> str:
    """The label of what has the focus."""
    return str(
        chat.page.evaluate(
            "() => { const at = document.activeElement; const label = at.labels?.[0]?.querySelector('span');"
            " return at.getAttribute('aria-label') || label?.textContent || at.textContent.trim(); }"
        )
    )


def tab_to(chat: Any, label: str) -> None:
    """Goes on with Tab until something of that name has the focus, which must happen within one round of the page."""
    for _ in range(80):
        chat.page.keyboard.press("Tab")
        if focused(chat).startswith(label):
            return
    raise AssertionError(f"Tab never comes to {label}")


def test_everything_is_done_without_a_mouse(chat: Any) -> None:
    keys = chat.page.keyboard
    assert focused(chat) == "Message"
    keys.type("Which colour? 2")
    keys.press("Enter")
    chat.settled()
    tab_to(chat, "Model")
    keys.press("ArrowDown")
    chat.expect(chat.page.get_by_role("combobox", name="Model")).to_have_value("baker")
    tab_to(chat, "Settings of this chat")
    keys.press("Enter")
    assert focused(chat) == "System prompt"
    tab_to(chat, "Temperature")
    keys.type("0.5")
    tab_to(chat, "Close settings")
    keys.press("Enter")
    tab_to(chat, "Edit message")
    keys.press("Enter")
    assert focused(chat) == "Edit message"
    keys.press("Control+a")
    keys.type("A record 4")
    keys.press("Enter")
    chat.settled()
    chat.expect(chat.prose).to_contain_text('"Ada"')
    tab_to(chat, "Earlier branch")
    keys.press("Enter")
    chat.expect(chat.prose).to_have_text("Green, I would say.")
    keys.press("Control+k")
    assert focused(chat) == "Search all chats"
    keys.press("Escape")
    keys.press("Control+Shift+o")
    assert focused(chat) == "Message"
    keys.press("Shift+Tab")
    keys.press("/")
    assert focused(chat) == "Message"
    assert chat.message.input_value() == ""
    tab_to(chat, "Which colour? 2")
    keys.press("Enter")
    chat.expect(chat.prose).to_have_text("Green, I would say.")
    chat.message.focus()
    keys.press("ArrowUp")
    assert focused(chat) == "Edit message"
    keys.press("Escape")
    chat.expect(chat.page.locator(".message.user .bubble")).to_have_text("Which colour? 2")


def test_an_answer_is_read_out_in_whole_blocks(chat: Any) -> None:
    chat.page.evaluate(
        "() => { window.said = []; const live = document.querySelector('[aria-live=polite]');"
        " new MutationObserver(() => window.said.push(live.textContent)).observe(live, { childList: true }); }"
    )
    chat.say("Go on 9", wait=False)
    chat.page.wait_for_function("() => window.said.some(text => text.includes('word12.'))")
    chat.page.keyboard.press("Escape")
    chat.page.wait_for_function("() => window.said.at(-1).includes('complete')")
    said = chat.page.evaluate("window.said")
    words = chat.prose.inner_text().split()
    # A few long messages, not one for each word; none ends within a block.
    assert len(said) < len(words) / 5
    assert all(re.search(r"(word\d+\.|…|Answering\.|complete\.)$", text.strip()) for text in said)
    log = chat.page.get_by_role("log")
    assert log.get_attribute("aria-live") == "off"


def test_on_a_phone_nothing_is_wider_than_the_screen(new_chat_page: Callable[..., Any]) -> None:
    chat = new_chat_page(**PHONE)
    fits = "[document.documentElement, document.querySelector('.scroller')].every(e => e.scrollWidth <= innerWidth)"
    chat.expect(chat.page.get_by_role("navigation", name="Chats")).to_be_hidden()
    chat.say("Bread? 1")
    chat.say("https://example.org/" + "a" * 200 + " 2")
    assert chat.page.evaluate(fits)
    chat.press("List of chats")
    chat.page.get_by_role("button", name="Bread? 1").click()
    chat.expect(chat.page.get_by_role("navigation", name="Chats")).to_be_hidden()
    chat.open_settings()
    assert chat.page.evaluate(fits)
    chat.press("Close settings")
    box = chat.message.bounding_box()
    assert box["y"] + box["height"] <= 780 and box["width"] > 300
