"""Conversations as clients send them back, on the templates of many models, through the real client and server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall
from openai.types.chat.chat_completion_message_function_tool_call import Function

from landrace.checkpoints import write_checkpoint
from landrace.models.declared import shapes_of
from landrace.models.families import read_config
from landrace.text import encode_chat, load_tokenizer

TEMPLATES = (
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "ByteDance-Seed-OSS",
    "stepfun-ai-Step-3.5-Flash",
    "minimind",
    "GLM-4.5",
    "moonshotai-Kimi-K2",
    "MiniMax-M2",
    "deepseek-ai-DeepSeek-V3.1",
    "openai-gpt-oss-120b",
)
MARK = re.compile(r"<[|｜][^<>\n'\"{}+|]{1,40}[|｜]>|</?seed:[a-z_]+>|\]~!b\[|\]~b\]|\[e~\[|\[gMASK\]|<sop>")
"""How these templates write control tokens."""

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}

CALL = ChatCompletionMessageFunctionToolCall(
    id="call00001",
    type="function",
    function=Function(name="weather", arguments='{"city": "Zürich", "days": 3}'),
)
ASKED = ChatCompletionMessage(role="assistant", content=None, tool_calls=[CALL])
"""What the client's library makes of an answer that calls a tool: everything else of it is null."""


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


CONVERSATIONS: dict[str, tuple[list[Any], list[Any]]] = {
    "a tool call and its result": (
        [
            {"role": "user", "content": "How is the weather in Zürich?"},
            ASKED.model_dump(),
            {"role": "tool", "tool_call_id": CALL.id, "content": '{"sky": "clear"}'},
            {"role": "user", "content": "And on Sunday?"},
        ],
        [
            {"role": "user", "content": "How is the weather in Zürich?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": CALL.id,
                        "type": "function",
                        "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 3}},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": CALL.id, "content": '{"sky": "clear"}'},
            {"role": "user", "content": "And on Sunday?"},
        ],
    ),
    "parts for every role": (
        [
            {"role": "system", "content": parts("You are a gardener.")},
            {"role": "user", "content": parts("My pear tree loses leaves.")},
            {
                **ChatCompletionMessage(role="assistant").model_dump(),
                "content": parts("Since when?"),
                "annotations": [],
            },
            {"role": "user", "content": parts("Since May.")},
        ],
        [
            {"role": "system", "content": "You are a gardener."},
            {"role": "user", "content": "My pear tree loses leaves."},
            {"role": "assistant", "content": "Since when?"},
            {"role": "user", "content": "Since May."},
        ],
    ),
    "a developer": (
        [
            {"role": "developer", "content": "Answer in one word."},
            {"role": "user", "content": "Which colour has the sky?", "name": "ann"},
            ChatCompletionMessage(role="assistant", content="Blue").model_dump(),
            {"role": "user", "content": "And grass?"},
        ],
        [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Which colour has the sky?", "name": "ann"},
            {"role": "assistant", "content": "Blue"},
            {"role": "user", "content": "And grass?"},
        ],
    ),
}
"""As it comes over the wire, and in the plainest words."""


def model_folder(folder: Path, data: Path, template: str) -> Path:
    """A random model of one layer with a real template, and a small real vocabulary that has the template's marks."""
    vocabulary = data / "tokenizers" / "minimind"
    source = (data / "chat_templates" / f"{template}.jinja").read_text()
    settings = json.loads((vocabulary / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    known = load_tokenizer(vocabulary)
    marks = [mark for mark in sorted(set(MARK.findall(source))) if known.token_id(mark) is None]
    settings["added_tokens_decoder"] |= {
        str(known.vocab_size + place): {"content": mark, "special": True} for place, mark in enumerate(marks)
    }
    extras = folder.parent / f"files of {folder.name}"
    extras.mkdir()
    shutil.copyfile(vocabulary / "tokenizer.json", extras / "tokenizer.json")
    (extras / "tokenizer_config.json").write_text(json.dumps(settings))
    (extras / "chat_template.jinja").write_text(source)
    sized = {**CONFIG, "vocab_size": known.vocab_size + len(marks)}
    family = read_config(sized)
    generator = torch.Generator().manual_seed(0)
    tensors = [(name, torch.randn(shape, generator=generator)) for name, shape in shapes_of(family.spec).items()]
    write_checkpoint(folder, sized, family.sources, tensors, extras.iterdir())
    return folder


@pytest.fixture(scope="module")
def folders(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("conversations")
    return {template: model_folder(place / template, shared / "data", template) for template in TEMPLATES}


@pytest.fixture(scope="module")
def serving(start_server: Any, folders: dict[str, Path]) -> dict[str, Any]:
    """By template. Two servers, so that they open their models side by side."""
    halves = [TEMPLATES[::2], TEMPLATES[1::2]]
    sizes = ("--cache-tokens", "2048", "--max-length", "1024")
    servers = [start_server(*(str(folders[template]) for template in half), *sizes, patience=300) for half in halves]
    return {template: server for server, half in zip(servers, halves, strict=True) for template in half}


@pytest.mark.matrix
@pytest.mark.parametrize("said", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_a_client_sends_back_is_the_conversation_it_had(
    serving: dict[str, Any], folders: dict[str, Path], template: str, said: str
) -> None:
    sent, plain = CONVERSATIONS[said]
    call: Any = {"model": str(folders[template]), "messages": sent, "max_tokens": 3, "temperature": 0}
    call["extra_body"] = {"ignore_eos": True}
    client = serving[template].client
    whole = client.chat.completions.create(**call)
    tokenizer = load_tokenizer(folders[template])
    assert tokenizer.chat_template is not None
    text = tokenizer.chat_template.render(plain)
    for word in ("Zürich", "clear", "Sunday") if "tool" in said else (plain[0]["content"], plain[-1]["content"]):
        assert word in text
    assert whole.usage.prompt_tokens == len(encode_chat(tokenizer, plain))
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 3)
    chunks = list(client.chat.completions.create(stream=True, **call))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
