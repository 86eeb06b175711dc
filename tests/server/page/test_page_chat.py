"""A conversation on the page: sent, streamed, stopped, changed, kept."""

from __future__ import annotations

import re
from typing import Any

from documents import DOCUMENTS, ENDLESS


def test_a_question_is_answered_and_both_are_there_after_a_reload(chat: Any) -> None:
    chat.say("Which colour? 2")
    chat.expect(chat.prose).to_have_text("Green, I would say.")
    chat.expect(chat.page.locator(".chats li")).to_have_text(["Which colour? 2"])
    chat.reload()
    chat.expect(chat.page.locator(".message.user")).to_contain_text("Which colour? 2")
    chat.expect(chat.prose).to_have_text("Green, I would say.")


def test_an_answer_comes_piece_by_piece_and_stops_at_escape_and_at_the_button(chat: Any) -> None:
    for stop in (lambda: chat.page.keyboard.press("Escape"), lambda: chat.press("Stop")):
        chat.say(f"Go on {ENDLESS}", wait=False)
        chat.expect(chat.answers.last).to_have_attribute("aria-busy", "true")
        chat.expect(chat.prose).to_contain_text("word1 word2")
        stop()
        chat.settled()
        chat.expect(chat.answers.last.locator(".stats")).to_contain_text("stopped")
        chat.expect(chat.prose).to_contain_text("word1 word2")
    chat.say("Which colour? 2")  # and the conversation goes on
    chat.expect(chat.prose).to_have_text("Green, I would say.")


def test_the_server_is_told_when_an_answer_is_stopped(chat: Any, page_server: Any) -> None:
    chat.say(f"Go on {ENDLESS}", wait=False)
    chat.expect(chat.prose).to_contain_text("word1")
    chat.page.keyboard.press("Escape")
    chat.settled()
    chat.page.wait_for_function(
        "async () => (await (await fetch('health')).json()).unfinished_requests === 0", polling=100
    )


def test_an_answer_of_the_whole_context_says_that_it_was_cut(chat: Any) -> None:
    settings = chat.open_settings()
    settings.get_by_label("Most tokens").fill("20")
    chat.say(f"Go on {ENDLESS}")
    chat.expect(chat.answers.last.locator(".stats")).to_contain_text("cut off")


def test_under_an_answer_stand_its_speed_and_above_the_field_the_context(chat: Any) -> None:
    chat.open_settings().get_by_label("Most tokens").fill("300")
    chat.say(f"Go on {ENDLESS}")
    stats = chat.answers.last.locator(".stats")
    chat.expect(stats).to_contain_text(re.compile(r"[\d.]+ tokens/s · first after [\d.]+ s · \d+ tokens"))
    meter = chat.page.get_by_role("meter", name="Context used")
    chat.expect(meter).to_have_attribute("aria-valuemax", "2048")
    used = int(meter.get_attribute("aria-valuenow"))
    chat.say("Which colour? 2")
    assert int(meter.get_attribute("aria-valuenow")) > used > 0


def test_regenerating_and_editing_make_branches_to_go_between(chat: Any) -> None:
    chat.say("Which colour? 2")
    chat.press("Answer again")
    chat.settled()
    answer = chat.answers.last.locator(".branches")
    chat.expect(answer).to_have_text("2 / 2")
    chat.press("Edit message")
    chat.page.get_by_role("textbox", name="Edit message").fill("A record 4")
    chat.press("Send again")
    chat.settled()
    question = chat.page.locator(".message.user .branches")
    chat.expect(question).to_have_text("2 / 2")
    chat.expect(chat.prose).to_contain_text('"Ada"')
    chat.press("Earlier branch", within=question)
    chat.expect(chat.page.locator(".message.user .bubble")).to_have_text("Which colour? 2")
    chat.expect(answer).to_have_text("2 / 2")
    chat.press("Earlier branch", within=answer)
    chat.expect(answer).to_have_text("1 / 2")
    chat.reload()  # the branch that was shown is shown again
    chat.expect(answer).to_have_text("1 / 2")
    chat.expect(question).to_have_text("1 / 2")
    body = chat.sent(lambda: chat.say("And now? 2"))
    assert [message["content"] for message in body["messages"]] == [
        "Which colour? 2",
        "Green, I would say.",
        "And now? 2",
    ]


def test_thoughts_are_folded_and_timed(chat: Any) -> None:
    chat.say("Which colour? 2")
    thoughts = chat.answers.last.locator(".thoughts")
    chat.expect(thoughts.locator("summary")).to_have_text(re.compile(r"Thought for [\d.]+ s"))
    text = thoughts.get_by_text("Green suits leaves")
    chat.expect(text).to_be_hidden()
    thoughts.locator("summary").click()
    chat.expect(text).to_be_visible()


def test_every_setting_reaches_the_server(chat: Any) -> None:
    settings = chat.open_settings()
    numbers = {
        "Temperature": ("temperature", 0.5), "Top p": ("top_p", 0.9), "Top k": ("top_k", 7), "Min p": ("min_p", 0.1),
        "Repetition": ("repetition_penalty", 1.1), "Presence": ("presence_penalty", 0.2),
        "Frequency": ("frequency_penalty", -0.3), "Seed": ("seed", 3), "Most tokens": ("max_tokens", 50),
        "Budget": ("thinking_budget", 9),
    }  # fmt: skip
    for label, (_, value) in numbers.items():
        settings.get_by_label(re.compile(f"^{label}")).fill(str(value))
    settings.get_by_label(re.compile("^System prompt")).fill("Be brief.")
    settings.get_by_label(re.compile("^Stop texts")).fill("stop one\nstop two")
    settings.get_by_role("combobox", name="Thinking").select_option("Off")
    body = chat.sent(lambda: chat.say("Which colour? 2"))
    assert {name: body[name] for name, _ in numbers.values()} == dict(numbers.values())
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["stop"] == ["stop one", "stop two"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    chat.expect(chat.answers.last.locator(".failure")).to_have_count(0)
    chat.reload()  # they belong to the chat
    again = chat.sent(lambda: chat.say("And? 2"))
    assert again["temperature"] == 0.5


def test_an_adapter_is_chosen_by_its_name_and_the_choice_is_kept(chat: Any) -> None:
    chat.page.get_by_role("combobox", name="Model").select_option("baker")
    body = chat.sent(lambda: chat.say("Which colour? 2"))
    assert body["model"] == "baker"
    chat.expect(chat.answers.last.locator(".speaker")).to_have_text("baker")
    chat.press("New chat")
    assert chat.sent(lambda: chat.say("Which colour? 2"))["model"] == "baker"


def test_an_answer_in_json_is_laid_out(chat: Any) -> None:
    chat.say("A record 4")
    shown = chat.prose.locator("pre").inner_text()
    assert shown.splitlines()[:3] == ["{", '  "name": "Ada",', '  "born": 1815,']


def test_a_schema_is_sent_and_a_wrong_one_is_told(chat: Any) -> None:
    settings = chat.open_settings()
    schema = settings.get_by_label(re.compile("^JSON schema"))
    schema.fill('{"type": "object"')
    chat.expect(settings.get_by_text("Not JSON yet.")).to_be_visible()
    chat.say("A record 4")
    chat.expect(chat.answers.last.get_by_role("alert")).to_contain_text("The schema in the settings of this chat")
    schema.fill('{"type": "object"}')
    body = chat.sent(lambda: chat.press("Try again"))
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    chat.settled()


def test_a_tool_call_is_readable_and_its_result_goes_back(chat: Any) -> None:
    tools = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'
    chat.open_settings().get_by_label(re.compile("^Tools")).fill(tools)
    chat.say("Weather? 3")
    call = chat.page.get_by_role("region", name="Call of weather")
    assert '"town": "Bergen"' in call.locator("pre").inner_text()
    call.get_by_text("Give its result").click()
    call.get_by_role("textbox", name="Result of weather").fill('{"sky": "rain 2"}2')
    body = chat.sent(lambda: chat.press("Send result"))
    chat.settled()
    asked, result = body["messages"][-2:]
    assert asked["tool_calls"][0]["function"]["name"] == "weather"
    assert result == {"role": "tool", "content": '{"sky": "rain 2"}2', "tool_call_id": asked["tool_calls"][0]["id"]}
    chat.expect(chat.prose).to_have_text("Green, I would say.")


def test_code_and_answers_are_copied(chat: Any) -> None:
    chat.say("Bread? 1")
    chat.press("Copy code")
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("def hydrate(") and copied.endswith("# in grams")
    chat.press("Copy answer")
    assert chat.page.evaluate("navigator.clipboard.readText()") == DOCUMENTS["1"]
