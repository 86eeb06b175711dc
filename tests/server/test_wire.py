"""Events whose surroundings are written once, against the same events written whole."""

from __future__ import annotations

import pytest

from landrace.server import wire


@pytest.mark.parametrize("more", [{}, {"usage": None}])
@pytest.mark.parametrize("name", ["tiny", 'a "choices": [null] b', "[null]", "größe\u2028\n\\"])
@pytest.mark.parametrize("text", ["a", '"choices": [null]', "ü\ud800\u2028\x00\n"])
def test_an_event_in_its_envelope_is_the_event_written_whole(name: str, text: str, more: dict[str, None]) -> None:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [-0.5, 1e-30]}, "finish_reason": None}
    body = {"id": "cmpl-1", "created": 12, "model": name}
    envelope = wire.Envelope({**body, "choices": [None], **more})
    for _ in range(2):
        assert envelope.event(choice) == wire.server_event({**body, "choices": [choice], **more})
