"""Templates of strangers: whatever they do ends in one clear error, soon, and the next rendering is as good as new."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until

from landrace.errors import CheckpointError, LandraceError, RequestError
from landrace.text import ChatTemplate, template_process
from landrace.text.end_tokens import turn_end_id
from landrace.text.template_process import TemplateStoppedError

USER = {"role": "user", "content": "Hello"}
GROW = "{%% set n = namespace(x=%s) %%}{%% for i in range(99) %%}{%% set n.x = %s %%}{%% endfor %%}"

ENDLESS = [
    "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in 'abcdefgh' * 99999 %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{{ m(n - 1) if n }}{{ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
    "{% macro m(n) %}{% if n %}{% set a = m(n - 1) %}{% set b = m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set x = 9 ** 999999 %}{% for i in range(99999) %}{% set y = x % 7 ** 9999 %}{% endfor %}",
    "{% set s = 'ab' * 10**6 %}{% for i in range(99999) %}{% if (s ~ 'c' ~ s) in (s ~ s) %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 10**7 %}{% for i in range(99999) %}{% set t = s | upper %}{% endfor %}",
    "{% set s = range(99999) | list %}{% for i in s %}{% if 'x' in s %}{% endif %}{% endfor %}",
    "{% set s = range(99999) | list %}{% for i in s %}{% set t = s | sort | unique | list %}{% endfor %}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}"
    "{% endfor %}{{ n.x == n.y }}",
    "{% for i in range(99999) %}{% set t = (('a' ~ i) * 10**5) | wordwrap(1) %}{% endfor %}",
    "{% for i in range(99999) %}{% set t = (('<' ~ i) * 10**5) | striptags %}{% endfor %}",
    "{% for i in range(99999) %}{% set t = (('a.b@' ~ i) * 10**4) | urlize %}{% endfor %}",
    "{% for i in range(99999) %}{% set t = '%9999999d' % i %}{% endfor %}",
]
HUGE = [
    "{{ 'x' * 10**10 }}",
    "{{ ('x' * 1000000) * 1000000 }}",
    "{{ [1] * 10**10 }}",
    "{{ 'x'.ljust(10**10) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (1999999999, 1) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ '%9999999999d' | format(1) }}",
    "{{ messages | tojson(indent=1999999999) }}",
    "{{ 'x' | indent(1999999999, true) }}",
    GROW % ("'xx'", "n.x ~ n.x"),
    GROW % ("'xx'", "n.x + n.x"),
    GROW % ("'xx'", "n.x.replace('x', n.x)"),
    GROW % ("'xx'", "n.x | replace('x', n.x)"),
    GROW % ("'xx'", "n.x.join(n.x)"),
    GROW % ("'xx'", "[n.x, n.x] | join"),
    GROW % ("[1]", "n.x + n.x"),
    GROW % ("[1]", "[n.x, n.x]") + "{{ n.x }}",
    GROW % ("[1]", "[n.x, n.x]") + "{{ n.x | tojson }}",
    GROW % ("[1]", "[n.x, n.x]") + "{{ n.x | pprint }}",
    GROW % ("[1]", "[n.x, n.x]") + "{{ n.x ~ '' }}",
    "{% set x = 'y' * 30000000 %}{% for i in range(99) %}{{ x }}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ range(5) | slice(10**9) | list }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
]
BROKEN = [
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{% include 'x' %}",
    "{% for",
    "{{ x ",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ 'x' | nofilter }}",
    "{{ range(10**6) | list }}",
    "x" * 2_000_000,
]


@pytest.fixture
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "MAX_CPU_SECONDS", 0.3)


@pytest.mark.usefixtures("short_bounds")
@pytest.mark.parametrize("source", ENDLESS + HUGE, ids=lambda source: source[:50])
def test_a_template_without_bounds_is_stopped(source: str) -> None:
    template = ChatTemplate({"default": source, "tool_use": "{{ messages[0].content }} {{ tools[0].name }}"})
    with pytest.raises(TemplateStoppedError) as caught:
        template.render([USER])
    assert len(caught.value.message) < 500
    assert caught.value.hint
    assert template.render([USER], tools=[{"name": "t"}]) == "Hello t"


def test_a_template_may_change_lists_for_itself() -> None:
    """As Kimi-K2's does, which keeps the ids of calls in one."""
    template = ChatTemplate(
        "{% set _ = messages.append(messages[0]) %}{{ messages | length }}{{ messages[0].content }}"
    )
    messages = [USER]
    assert [template.render(messages) for _ in range(2)] == ["2Hello", "2Hello"]
    assert messages == [USER]


@pytest.mark.parametrize("source", BROKEN, ids=lambda source: source[:50])
def test_a_broken_or_prying_template_ends_in_one_clear_error(source: str) -> None:
    with pytest.raises(LandraceError) as caught:
        ChatTemplate(source).render([USER])
    assert len(caught.value.message) < 500
    assert not isinstance(caught.value, TemplateStoppedError)


@pytest.mark.usefixtures("short_bounds")
def test_a_template_that_hangs_stops_the_opening() -> None:
    with pytest.raises(TemplateStoppedError, match="processor time"):
        turn_end_id(ChatTemplate("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"), {})
    # One that merely refuses the plain conversation does not.
    assert turn_end_id(ChatTemplate("{{ raise_exception('no') }}"), {}) is None


def test_a_process_that_gets_no_time_is_given_up_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "MAX_CPU_SECONDS", 1000.0)
    monkeypatch.setattr(template_process, "MAX_SECONDS", 0.5)
    with pytest.raises(TemplateStoppedError, match="seconds"):
        ChatTemplate(ENDLESS[0]).render([USER])


def test_numbers_in_messages_are_data() -> None:
    source = (
        "{% macro show(v, d=0) %}{% set n = namespace(v=v) %}{{ n.v | default(d) }}{{ ' %d' % v }}{% endmacro %}"
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}{{ show(c.function.arguments.n) }}"
        "{{ show(v=10**12) }}"
        "{{ '%s' | format(c.function.arguments.n) }}{{ [c.function.arguments.n] | tojson }}{% endfor %}{% endfor %}"
    )
    number = 10**15 + 1
    call = {"type": "function", "function": {"name": "f", "arguments": {"n": number}}}
    text = ChatTemplate(source).render([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert text == f"f{number} {number}{10**12} {10**12}{number}[{number}]"


def test_a_number_that_is_too_large_for_a_range_is_the_request_s_fault() -> None:
    with pytest.raises(RequestError):
        ChatTemplate("{% for i in range(messages[0].n) %}{% endfor %}").render([{**USER, "n": 10**6}])


@pytest.mark.parametrize("text", ["a\ud800b", "\x00\x1b[31m", "\ufdd0\U0010ffff", "é" * 100_000, "\r\n\u2028"])
def test_any_text_goes_through_unchanged(text: str) -> None:
    assert ChatTemplate("{{ messages[0].content }}|{{ kind }}").render([{**USER, "content": text}], kind=text) == (
        f"{text}|{text}"
    )


def test_variables_are_plain_json() -> None:
    with pytest.raises(RequestError) as caught:
        ChatTemplate("x").render([USER], thing=object())
    assert caught.value.field == "chat_template_kwargs"


def test_long_conversations_are_written() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}"
    text = ChatTemplate(source).render([USER, {"role": "assistant", "content": "Zdravo"}] * 2000)
    assert text.count("Zdravo") == 2000


def test_a_process_that_dies_is_replaced() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    assert template.render([USER]) == "Hello"
    process = template._process._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(TemplateStoppedError, match="status -9"):
        template.render([USER])
    assert template.render([USER]) == "Hello"


def test_threads_share_a_template() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    wrong: list[Any] = []

    def work(name: str) -> None:
        for i in range(50):
            text = f"{name} {i} " + "x" * (i * 1000)
            if template.render([{**USER, "content": text}]) != text:
                wrong.append((name, i))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_template_is_pickled_without_its_process() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ unk_token }}", tokens={"unk_token": "$"})
    assert template.render([USER]) == "Hello$"
    assert pickle.loads(pickle.dumps(template)).render([USER]) == "Hello$"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_process_ends_with_the_template_and_with_its_owner(tmp_path: Path) -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    template.render([USER])
    process = template._process._process
    assert process is not None
    del template
    gc.collect()
    assert not _alive(process.pid)

    code = (
        "from landrace.text import ChatTemplate; import os, signal\n"
        "user = {'role': 'user', 'content': 'x'}\n"
        "t = ChatTemplate('{{ messages[0].content }}'); t.render([user]); print(t._process._process.pid)\n"
        "os.sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(done.stdout)
    wait_until(lambda: not _alive(pid))


def test_an_interrupt_leaves_no_half_read_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    template.render([USER])

    def interrupted(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(template_process, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            template.render([{**USER, "content": "first"}])
    assert template.render([{**USER, "content": "second"}]) == "second"


def test_what_nobody_holds_is_ended_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a test run lets go of many at once. xdist sends a worker that takes long over it a Ctrl-C, which a
    finalizer loses."""
    template = ChatTemplate("{{ messages[0].content }}")
    template.render([USER])
    process = template._process._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # it cannot end by itself
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    del template
    gc.collect()
    assert process.returncode == -signal.SIGKILL and slept == []


def test_a_template_that_is_not_valid_says_where() -> None:
    with pytest.raises(CheckpointError, match="line 2"):
        ChatTemplate("{{ 1 }}\n{% if %}").render([USER])
