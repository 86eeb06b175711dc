"""What the page keeps: attachments, search, files of chats, and that nothing of it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_text_files_are_attached_and_others_are_refused(chat: Any, tmp_path: Path) -> None:
    files = {"notes.md": b"# Flour ```\nrye", "image.bin": b"\x89PNG\x00\xff", "large.txt": b"x" * (1 << 20) + b"x"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with chat.page.expect_file_chooser() as chooser:
        chat.press("Attach text files")
    chooser.value.set_files([tmp_path / name for name in files])
    chat.expect(chat.page.locator(".files li")).to_have_text(["notes.md"])
    chat.expect(chat.page.locator(".toast")).to_have_count(2)
    body = chat.sent(lambda: chat.say("Which colour? 2"))
    assert body["messages"][0]["content"] == "notes.md:\n````\n# Flour ```\nrye\n````\n\nWhich colour? 2"
    attached = chat.page.locator(".message.user .attached")
    attached.locator("summary").click()
    chat.expect(attached.locator("pre")).to_have_text("# Flour ```\nrye")


def test_a_long_text_that_is_pasted_becomes_an_attachment(chat: Any) -> None:
    paste = (
        "([field, text]) => { const data = new DataTransfer(); data.setData('text/plain', text);"
        " field.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })); }"
    )
    field = chat.message.element_handle()
    chat.page.evaluate(paste, [field, "short"])
    chat.expect(chat.page.locator(".files li")).to_have_count(0)
    chat.page.evaluate(paste, [field, "long " * 1000])
    chat.expect(chat.page.locator(".files li")).to_have_text(["pasted 1.txt"])
    chat.press("Remove pasted 1.txt")
    chat.expect(chat.page.locator(".files li")).to_have_count(0)


def test_search_finds_words_in_titles_and_messages_of_all_chats(chat: Any) -> None:
    for question in ("Bread? 1", "Which colour? 2"):
        chat.page.keyboard.press("Control+Shift+o")
        chat.say(question)
    chat.page.keyboard.press("Control+k")
    field = chat.page.get_by_role("combobox", name="Search all chats")
    field.fill("INGREDIENT")
    option = chat.page.get_by_role("dialog").get_by_role("option")
    chat.expect(option).to_have_count(1)
    chat.expect(option.locator("mark")).to_have_text("ingredient")
    field.press("Enter")
    chat.expect(chat.page.locator(".message.user")).to_contain_text("Bread? 1")
    chat.page.keyboard.press("Control+k")
    field.fill("nowhere at all")
    chat.expect(chat.page.get_by_text("Nothing found.")).to_be_visible()
    chat.page.keyboard.press("Escape")


def exported(chat: Any) -> str:
    with chat.page.expect_download() as download:
        chat.press("Export")
    return Path(download.value.path()).read_text()


def test_what_is_exported_is_imported_to_the_same(new_chat_page: Callable[[], Any], tmp_path: Path) -> None:
    first = new_chat_page()
    first.say("Which colour? 2")
    first.press("Answer again")
    first.settled()
    first.page.keyboard.press("Control+Shift+o")
    first.say("Bread? 1")
    text = exported(first)
    assert len(json.loads(text)["chats"]) == 2
    second = new_chat_page()
    second.load(text, tmp_path)
    second.expect(second.page.locator(".toast")).to_contain_text("Imported 2 chats.")
    assert exported(second) == text
    second.load(text, tmp_path)  # once more changes nothing
    second.expect(second.page.locator(".toast").last).to_contain_text("Left out 2")
    assert exported(second) == text
    second.page.get_by_role("button", name="Which colour? 2").click()
    second.expect(second.answers.last.locator(".branches")).to_have_text("2 / 2")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no", "not JSON"),
        ("{}", "holds no chats"),
        ('{"format": "landrace-chats", "version": 9, "chats": []}', "version 9"),
        ('{"format": "landrace-chats", "version": 1, "chats": [{"id": "a"}]}', "lacks its id, title or model"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(chat: Any, tmp_path: Path, text: str, why: str) -> None:
    chat.load(text, tmp_path)
    chat.expect(chat.page.locator(".toast.error")).to_contain_text(why)


def test_a_chat_is_renamed_exported_as_markdown_and_deleted(chat: Any) -> None:
    chat.say("Which colour? 2")
    menu = chat.page.get_by_label("This chat", exact=True)
    menu.click()
    chat.press("Rename")
    chat.page.get_by_label("Title").fill("Of colours")
    chat.press("Rename", within=chat.page.get_by_role("dialog"))
    chat.expect(chat.page.locator(".chats li")).to_have_text(["Of colours"])
    menu.click()
    with chat.page.expect_download() as download:
        chat.press("Export as Markdown")
    assert download.value.suggested_filename == "Of colours.md"
    text = Path(download.value.path()).read_text()
    assert text.startswith("# Of colours\n\n## You\n\nWhich colour? 2\n\n## ") and text.endswith(
        "Green, I would say.\n"
    )
    menu.click()
    chat.press("Delete")
    chat.press("Delete", within=chat.page.get_by_role("dialog"))
    chat.expect(chat.page.locator(".chats li")).to_have_count(0)
    assert json.loads(exported(chat))["chats"] == []


def test_the_theme_follows_the_system_until_one_is_chosen(new_chat_page: Callable[..., Any]) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    dark, light = new_chat_page(color_scheme="dark"), new_chat_page(color_scheme="light")
    at_night, by_day = dark.page.evaluate(colour), light.page.evaluate(colour)
    assert at_night != by_day
    dark.press("Theme: system")
    assert dark.page.evaluate(colour) == by_day
    dark.reload()
    assert dark.page.evaluate(colour) == by_day
    dark.press("Theme: light")
    assert dark.page.evaluate(colour) == at_night


def test_an_answer_goes_on_while_another_chat_is_shown(chat: Any) -> None:
    chat.say("Go on 9", wait=False)
    chat.expect(chat.prose).to_contain_text("word1")
    chat.page.keyboard.press("Control+Shift+o")
    chat.say("Which colour? 2")
    chat.expect(chat.prose).to_have_text("Green, I would say.")
    chat.page.get_by_role("button", name="Go on 9").click()
    chat.expect(chat.prose).to_contain_text("word1")
    chat.page.keyboard.press("Escape")
    chat.settled()
