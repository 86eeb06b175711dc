"""Two models side by side, blind until there is a vote."""

from __future__ import annotations

from typing import Any


def compare(chat: Any, *, blind: bool) -> None:
    chat.press("Compare two models")
    dialog = chat.page.get_by_role("dialog", name="Compare two models")
    dialog.get_by_label("The other").select_option("baker")
    dialog.get_by_label("Blind: hide").set_checked(blind)
    chat.press("Start")


def ask_both(chat: Any, question: str) -> None:
    before = chat.answers.count()
    chat.message.fill(question)
    chat.message.press("Enter")
    chat.expect(chat.answers).to_have_count(before + 2)
    chat.settled()


def test_both_answer_and_names_come_with_the_vote(chat: Any) -> None:
    votes: list[dict[str, Any]] = []

    def take(route: Any) -> None:
        if route.request.method == "POST":
            votes.append(route.request.post_data_json)
        route.fulfill(status=204)

    chat.page.route("**/v1/feedback", take)
    chat.reload()
    compare(chat, blind=True)
    ask_both(chat, "Which colour? 2")
    ask_both(chat, "And again? 2")
    chat.expect(chat.page.locator(".lane")).to_have_count(2)
    chat.expect(chat.page.locator(".prose")).to_have_text(["Green, I would say."] * 4)
    shown = chat.page.locator("main").inner_text()
    chat.expect(chat.page.get_by_role("button", name="Good answer")).to_have_count(0)
    assert "baker" not in shown and "gardener" not in shown and "tokens/s" not in shown
    chat.press("Left is better")
    chat.expect(chat.page.locator(".vote.decided")).to_contain_text("You preferred")
    chat.expect(chat.page.locator(".vote.decided")).to_contain_text("baker")
    chat.expect(chat.page.get_by_text("tokens/s").first).to_be_visible()
    assert [vote["rating"] for vote in votes] == ["up", "down"]
    assert votes[0]["response_id"] != votes[1]["response_id"]
    chat.reload()
    chat.expect(chat.page.locator(".vote.decided")).to_contain_text("You preferred")
    chat.expect(chat.page.locator(".chats li")).to_have_count(1)


def test_with_names_shown_each_side_has_its_own_and_one_button_stops_both(chat: Any) -> None:
    compare(chat, blind=False)
    chat.message.fill("Go on 9")
    chat.message.press("Enter")
    for lane in range(2):
        chat.expect(chat.page.locator(".lane").nth(lane).locator(".prose")).to_contain_text("word1")
    chat.press("Stop")
    chat.settled()
    chat.expect(chat.page.locator(".speaker")).to_have_text(["gardener", "baker"])


def test_each_side_goes_on_with_its_own_answers(chat: Any) -> None:
    compare(chat, blind=False)
    ask_both(chat, "Which colour? 2")
    chat.press("Answer again", within=chat.page.locator(".lane").first)
    chat.settled()
    chat.expect(chat.page.locator(".branches")).to_have_count(1)
