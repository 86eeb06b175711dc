"""A real server, its chat page, and a headless browser on it. Each test's page must keep to the page's policy."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import SECONDS

from landrace.checkpoints.adapter import write_adapter
from landrace.models.declared import shapes_of
from landrace.models.families import read_config
from landrace.models.lora_spec import LoraSpec
from landrace.server.page.bundle import BUILT

sys.path.insert(0, str(Path(__file__).parent))  # documents.py and stub.py
from documents import write_page_model
from stub import Stub

MAX_LENGTH = 2048
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser of this machine; none is downloaded."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        pytest.skip("needs the extra 'browser': pip install 'landrace[browser]'")
    executable = os.environ.get("LANDRACE_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        pytest.skip("needs a Chromium: install one, or name it in LANDRACE_BROWSER")
    if not (BUILT / "index.html").exists():
        pytest.skip("needs the built page: make page")
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable)
        yield started
        started.close()


@pytest.fixture(scope="session")
def page_server(browser: Any, start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Serves a model that recites `documents.DOCUMENTS`, and an adapter of it that changes nothing."""
    folder = tmp_path_factory.mktemp("page")
    model = write_page_model(folder / "gardener", folder / "extras")
    family = read_config(json.loads((model / "config.json").read_text()))
    name, shape = next(item for item in shapes_of(family.spec).items() if item[0].endswith("q_proj.weight"))
    module = name.removesuffix(".weight")
    tensors = {f"{module}.lora_A": torch.zeros(4, shape[1]), f"{module}.lora_B": torch.zeros(shape[0], 4)}
    write_adapter(folder / "baker", LoraSpec(4, 8.0, ("q_proj",)), tensors, family.sources, "gardener", {})
    arguments = ("--adapter", f"baker={folder / 'baker'}", "--max-length", str(MAX_LENGTH), "--keep-conversations")
    server = start_server(str(model), *arguments, ledger=folder / "ledger.sqlite")
    assert server.url
    return server


class ChatPage:
    """What a person does on the page."""

    def __init__(self, page: Any, url: str) -> None:
        from playwright.sync_api import expect

        self.page = page
        self.url = url
        self.expect = expect
        self.faults: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", self._note_request)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.faults.append(f"a request to {request.url}")

    def open(self) -> None:
        self.page.goto(self.url)
        self.ready()

    def reload(self) -> None:
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        self.page.locator(".model option[value]").first.wait_for(state="attached")

    @property
    def message(self) -> Any:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def answers(self) -> Any:
        return self.page.locator(".message.assistant")

    @property
    def prose(self) -> Any:
        return self.answers.last.locator(".prose")

    def say(self, text: str, *, wait: bool = True) -> None:
        """Sends a message, and waits until it is answered."""
        before = self.answers.count()
        self.message.fill(text)
        self.message.press("Enter")
        if wait:
            self.expect(self.answers).to_have_count(before + 1)
            self.settled()

    def settled(self) -> None:
        """Waits until no answer is being written."""
        self.expect(self.page.locator("[aria-busy=true]")).to_have_count(0)
        self.expect(self.page.locator(".send.running")).to_have_count(0)

    def press(self, name: str, *, within: Any = None) -> None:
        (within or self.page).get_by_role("button", name=name, exact=True).click()

    def open_settings(self) -> Any:
        self.press("Settings of this chat", within=self.page.locator(".top"))
        return self.page.get_by_role("complementary", name="Settings of this chat")

    def sent(self, work: Callable[[], None]) -> dict[str, Any]:
        """The body of the call that `work` makes the page send."""
        with self.page.expect_request(re.compile("/v1/chat/completions$")) as request:
            work()
        body = request.value.post_data_json
        assert isinstance(body, dict)
        return body

    def load(self, chats: object, tmp_path: Path) -> None:
        """Imports chats from a file."""
        file = tmp_path / "chats.json"
        file.write_text(chats if isinstance(chats, str) else json.dumps(chats))
        with self.page.expect_file_chooser() as chooser:
            self.press("Import")
        chooser.value.set_files(file)

    def check(self) -> None:
        """The page asked nobody else for anything, broke its policy nowhere and raised nothing."""
        assert self.page.evaluate("window.violations") == []
        assert self.faults == []


@pytest.fixture
def new_chat_page(browser: Any, page_server: Any) -> Iterator[Callable[..., ChatPage]]:
    """Opens pages, each in a browser profile of its own, with options of such a profile."""
    contexts = []
    pages = []

    def new(**options: Any) -> ChatPage:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.add_init_script(_NOTE_VIOLATIONS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        pages.append(ChatPage(context.new_page(), page_server.url))
        pages[-1].open()
        return pages[-1]

    yield new
    for page in pages:
        page.check()
    for context in contexts:
        context.close()


@pytest.fixture
def chat(new_chat_page: Callable[..., ChatPage]) -> ChatPage:
    return new_chat_page()


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Answers calls for chats as a test says, in place of the server."""
    with Stub() as running:
        yield running
