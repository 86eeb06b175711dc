"""What the page does when the server says no, or nothing any more; and ratings, which it may not take."""

from __future__ import annotations

import re
from typing import Any


def piece(text: str) -> dict[str, Any]:
    return {"id": "chatcmpl-stub", "choices": [{"delta": {"content": text}}]}


def test_the_key_is_asked_for_sent_and_forgotten_with_the_tab(chat: Any, stub: Any) -> None:
    stub.answers_for(chat.page)
    stub.fails(401, "A key is needed.")
    stub.fails(401, "This key is not known.")
    stub.says("Welcome.")
    chat.say("Hello", wait=False)
    dialog = chat.page.get_by_role("dialog", name="Key")
    chat.expect(dialog).to_contain_text("asks for a key")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    chat.press("Use key")
    chat.expect(dialog).to_contain_text("did not accept")
    dialog.get_by_label("Key", exact=True).fill("right")
    chat.press("Use key")
    chat.expect(chat.prose).to_have_text("Welcome.")
    assert [headers.get("Authorization") for headers in stub.headers] == [None, "Bearer wrong", "Bearer right"]
    kept = "[sessionStorage.getItem('landrace.key'), localStorage.getItem('landrace.key')]"
    assert chat.page.evaluate(kept) == ["right", None]


def test_a_key_is_remembered_only_if_the_user_says_so(chat: Any, stub: Any) -> None:
    stub.answers_for(chat.page)
    stub.fails(401, "A key is needed.")
    stub.says("Welcome.")
    chat.say("Hello", wait=False)
    dialog = chat.page.get_by_role("dialog", name="Key")
    dialog.get_by_label("Key", exact=True).fill("right")
    dialog.get_by_label("Remember it in this browser").check()
    chat.press("Use key")
    chat.expect(chat.prose).to_have_text("Welcome.")
    assert chat.page.evaluate("localStorage.getItem('landrace.key')") == "right"


def test_an_error_is_a_line_to_read_and_can_be_tried_again(chat: Any, stub: Any) -> None:
    stub.answers_for(chat.page)
    stub.fails(429, "Too many requests.", **{"Retry-After": "7"})
    stub.says("Now.")
    chat.say("Hello")
    alert = chat.answers.last.get_by_role("alert")
    chat.expect(alert).to_contain_text("Too many requests. Try again in 7 seconds.")
    chat.press("Try again")
    chat.settled()
    chat.expect(chat.prose).to_have_text("Now.")


def test_the_servers_own_words_are_shown(chat: Any) -> None:
    chat.say("x" * 3000)
    chat.expect(chat.answers.last.get_by_role("alert")).to_contain_text("maximum context length is 2048 tokens")


def test_a_connection_that_breaks_leaves_what_came(chat: Any, stub: Any) -> None:
    stub.answers_for(chat.page)
    stub.streams([piece("Half an "), piece("answer")], whole=False)
    chat.say("Hello")
    chat.expect(chat.prose).to_have_text("Half an answer")
    chat.expect(chat.answers.last.get_by_role("alert")).to_contain_text("connection was lost")
    chat.reload()
    chat.expect(chat.prose).to_have_text("Half an answer")
    chat.expect(chat.answers.last.get_by_role("alert")).to_contain_text("connection was lost")


def test_an_error_in_the_middle_of_a_stream_leaves_what_came(chat: Any, stub: Any) -> None:
    stub.answers_for(chat.page)
    stub.streams([piece("Half"), {"error": {"message": "The engine stopped."}}])
    chat.say("Hello")
    chat.expect(chat.prose).to_have_text("Half")
    chat.expect(chat.answers.last.get_by_role("alert")).to_contain_text("The engine stopped.")


def test_a_server_that_cannot_be_reached_is_a_banner_with_a_way_back(chat: Any) -> None:
    chat.page.route("**/v1/models", lambda route: route.abort())
    chat.page.reload()
    banner = chat.page.locator(".banner")
    chat.expect(banner).to_contain_text("The server cannot be reached.")
    chat.page.unroute("**/v1/models")
    chat.press("Try again")
    chat.expect(banner).to_be_hidden()
    chat.ready()


def test_cost_is_shown_where_it_is_told(chat: Any, stub: Any) -> None:
    stub.answers_for(chat.page)
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    stub.says("Cheap.", usage=usage, timings={"cost": 0.000123})
    chat.say("Hello")
    chat.expect(chat.answers.last.locator(".stats")).to_contain_text("cost 0.000123")
    assert stub.bodies[0]["include_timings"] is True


def test_without_feedback_there_are_no_thumbs(chat: Any) -> None:
    chat.page.route("**/v1/feedback", lambda route: route.fulfill(status=404))
    chat.reload()
    chat.say("Which colour? 2")
    chat.expect(chat.page.get_by_role("button", name="Good answer")).to_have_count(0)


def test_thumbs_and_corrections_reach_the_server(chat: Any) -> None:
    chat.say("Which colour? 2")

    def told(name: str) -> dict[str, Any]:
        with chat.page.expect_request(
            lambda request: "feedback" in request.url and request.method == "POST"
        ) as request:
            chat.press(name)
        assert request.value.response().status == 200
        return dict(request.value.post_data_json)

    up = told("Good answer")
    assert up["rating"] == "up" and re.fullmatch("chatcmpl-[0-9a-f]+", up["response_id"])
    chat.expect(chat.page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    assert told("Bad answer") == {**up, "rating": "down"}
    chat.press("Correct it")
    chat.page.get_by_label("Better answer").fill("Blue.")
    assert told("Send correction") == {**up, "rating": "down", "correction": "Blue."}
    chat.expect(chat.page.get_by_role("button", name="Corrected")).to_be_visible()
    chat.reload()
    chat.expect(chat.page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")


def test_the_conversation_goes_with_a_rating_only_if_the_user_shares_it(chat: Any) -> None:
    chat.open_settings().get_by_label("Share rated answers").check()
    chat.say("Which colour? 2")
    chat.say("And again? 2")
    with chat.page.expect_request(lambda call: "feedback" in call.url and call.method == "POST") as request:
        chat.press("Good answer", within=chat.answers.last)
    body = request.value.post_data_json
    assert [message["content"] for message in body["messages"]] == [
        "Which colour? 2",
        "Green, I would say.",
        "And again? 2",
    ]
    assert body["answer"] == "Green, I would say." and body["model"].endswith("gardener")
    assert request.value.response().json()["text_kept"] is True


def test_a_rating_that_is_refused_is_told_and_not_shown_as_given(chat: Any) -> None:
    chat.say("Which colour? 2")
    refusal = {"error": {"message": "No ratings today."}}
    chat.page.route("**/v1/feedback", lambda route: route.fulfill(status=400, json=refusal))
    chat.press("Good answer")
    chat.expect(chat.page.locator(".toast.error")).to_contain_text("No ratings today.")
    chat.expect(chat.page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "false")
