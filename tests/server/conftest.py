"""A tiny random model in a folder, an adapter of it, and real server processes on them. Makes `driven_engines.py`
importable."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch
from byte_vocabulary import byte_vocabulary
from patience import SECONDS

from landrace.checkpoints import write_checkpoint
from landrace.checkpoints.adapter import write_adapter
from landrace.engine import Completion, EngineOptions, Request, SamplingParams
from landrace.model import open_engine
from landrace.models.declared import shapes_of
from landrace.models.families import read_config
from landrace.models.lora_spec import LoraSpec
from landrace.text import encode_chat

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
ROOT = HERE.parents[1]
MAX_LENGTH = 600

LAUNCH = "from landrace.cli.main import main; main()"
WITH_PULSE = "import sys; sys.path[:0] = {folders!r}; from pulse import give_pulse; give_pulse({file!r}); " + LAUNCH

CHATML = (
    "{% if style %}[{{ style }}]{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of a llama with random weights, a token a byte, and a ChatML template."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    extras = tmp_path_factory.mktemp("tokenizer")
    byte_vocabulary().save(str(extras / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"}
    (extras / "tokenizer_config.json").write_text(json.dumps(settings))
    family = read_config(CONFIG)
    generator = torch.Generator().manual_seed(0)
    tensors = [
        (name, torch.randn(shape, generator=generator) * (0.35 if len(shape) == 2 else 0.2) + (len(shape) == 1))
        for name, shape in shapes_of(family.spec).items()
    ]
    write_checkpoint(folder, CONFIG, family.sources, tensors, extras.iterdir())
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes the tiny model's answers."""
    folder = tmp_path_factory.mktemp("adapters") / "tuned"
    family = read_config(CONFIG)
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes_of(family.spec).items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            module = name.removesuffix(".weight")
            tensors[f"{module}.lora_A"] = torch.randn(4, shape[1], generator=generator) * 0.3
            tensors[f"{module}.lora_B"] = torch.randn(shape[0], 4, generator=generator) * 0.3
    write_adapter(folder, LoraSpec(4, 8.0, ("q_proj", "v_proj")), tensors, family.sources, "tiny", {})
    return folder


class ServerProcess:
    """`landrace serve` in a process of its own, as a person starts it."""

    def __init__(
        self, *arguments: str, ledger: Path | None = None, pulse: Path | None = None, patience: float = SECONDS
    ) -> None:
        """`pulse`: the file that its event loop writes to (`pulse.py`). `patience`: seconds until it must answer; the
        more models it opens, the longer that takes."""
        recorded = [] if ledger is None else ["--ledger", str(ledger)]
        launch = LAUNCH if pulse is None else WITH_PULSE.format(folders=[str(HERE), str(HERE.parent)], file=str(pulse))
        self.arguments = arguments
        self.ledger = ledger
        self.pulse = pulse
        self.patience = patience
        self.lines: list[str] = []
        # A connection for each call, so that none is closed by the server at the moment it is used again.
        self.http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=SECONDS)
        self._url: str | None = None
        self._answers = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, "serve", *arguments, "--port", "0", "--threads", "1", *recorded],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"at (https?://\S+)/v1", line)
            if found:
                self._url = found[1]
                self._answers.set()
        self._answers.set()

    @property
    def url(self) -> str:
        """Waits until the server answers."""
        assert self._answers.wait(self.patience) and self._url is not None, "".join(self.lines)
        return self._url

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=SECONDS)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return "".join(self.lines)

    def post(self, path: str, body: Any) -> httpx.Response:
        """The body as plain JSON, which may hold what `json=` would refuse."""
        headers = {"Content-Type": "application/json"}
        return self.http.post(f"{self.url}{path}", content=json.dumps(body), headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(f"{self.url}{path}")

    def engine_pids(self) -> list[int]:
        """The processes that hold the models."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # one that has just ended
                if any("spawn_main" in part for part in child.cmdline()):
                    found.append(child.pid)
        return found

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(SECONDS)


def _runs(pid: int) -> bool:
    try:
        # In a container without an init, a process whose parent was killed stays as a zombie.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def launch() -> str:
    """Code that is the `landrace` command, whether the package is installed or not."""
    return LAUNCH


@pytest.fixture(scope="session")
def runs() -> Callable[[int], bool]:
    """Whether a process of this number is there and has not ended."""
    return _runs


StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def start_server() -> Iterator[StartServer]:
    """Starts servers, which end with the tests."""
    started: list[ServerProcess] = []

    def start(*arguments: str, **how: Any) -> ServerProcess:
        started.append(ServerProcess(*arguments, **how))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(
    start_server: StartServer, tiny_model: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> ServerProcess:
    """One server for every test that leaves it as it was."""
    ledger = tmp_path_factory.mktemp("ledger") / "usage.db"
    arguments = ("--adapter", f"tuned={tiny_adapter}", "--max-length", str(MAX_LENGTH), "--max-step-tokens", "64")
    return start_server(str(tiny_model), *arguments, ledger=ledger)


@pytest.fixture(scope="session")
def ask(tiny_model: Path, tiny_adapter: Path) -> Callable[..., Completion]:
    """Asks an engine in this process: token ids or messages, then sampling parameters and `adapter`."""
    opened = open_engine(str(tiny_model), adapters={"tuned": tiny_adapter}, options=EngineOptions())

    def run(prompt: list[int] | list[dict[str, str]], adapter: str | None = None, **params: Any) -> Completion:
        tokenizer = opened.model.tokenizer
        ids = prompt if isinstance(prompt[0], int) else encode_chat(tokenizer, prompt)
        sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 24, **params})
        return opened.engine.generate([Request("r", tuple(ids), sampling, adapter)])[0]

    return run
