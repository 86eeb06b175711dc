"""What a model is certified on: short exchanges in several languages, and the forms in which clients send messages."""

from __future__ import annotations

from typing import Any

CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    (
        {"role": "user", "content": "Why does ice float on water?"},
        {"role": "assistant", "content": "Frozen water is less dense than liquid water, so the ice is pushed upwards."},
    ),
    (
        {"role": "user", "content": "Tủ lạnh trong căn hộ không còn lạnh nữa, tôi phải làm gì?"},
        {"role": "assistant", "content": "Bạn hãy kiểm tra phích cắm trước, rồi gọi cho bộ phận sửa chữa."},
    ),
    (
        {"role": "user", "content": "请用一句话解释什么是光合作用。"},
        {"role": "assistant", "content": "植物利用阳光把二氧化碳和水变成养分并释放氧气。"},
    ),
    (
        {"role": "user", "content": "Koliko dana unapred mogu da otkažem rezervaciju?"},
        {"role": "assistant", "content": "Rezervaciju možete da otkažete najkasnije sedam dana pre dolaska."},
        {"role": "user", "content": "A ako otkažem kasnije?"},
        {"role": "assistant", "content": "Tada zadržavamo cenu prve noći."},
    ),
    (
        {"role": "user", "content": "Write a line of Python that sums the squares of 1 to 10."},
        {"role": "assistant", "content": "`sum(n * n for n in range(1, 11))` gives 385. 😀"},
    ),
    (
        {"role": "user", "content": "ما هي عاصمة المغرب؟ Отвечай по-русски."},
        {"role": "assistant", "content": "Столица Марокко — Рабат."},
    ),
)

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"],
        },
    },
}
_CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Huế", "days": 3}'},
}
_SYSTEM = {"role": "system", "content": "Answer briefly."}
_ASKED = {"role": "user", "content": "Will it rain in Huế?"}
_CALLED = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "rain, 24 °C"}
_TURNS = [_SYSTEM, *CONVERSATIONS[3][:3]]
PROMPTS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one question": ([_ASKED], None),
    "several turns behind a system message": (_TURNS, None),
    "contents in parts": ([{**m, "content": [{"type": "text", "text": m["content"]}]} for m in _TURNS], None),
    "empty contents": ([{**_SYSTEM, "content": []}, _ASKED, {"role": "assistant", "content": None}, _ASKED], None),
    "tools": ([_SYSTEM, _ASKED], [_TOOL]),
    "a call with null content, and its result": ([_ASKED, _CALLED, _RESULT], [_TOOL]),
}
"""Messages and tools by name: every form that a template may or may not take."""
