"""The operator's page on a real server with keys: what it shows, to whom, and that everybody can use it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from documents import write_page_model
from patience import SECONDS
from test_page_access import PHONE, violations

from landrace.ledger import Ledger

NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective));
"""
HIDE = """
Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? false });
window.hide = (hidden) => { window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); };
"""


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def admin_server(
    browser: Any, start_server: Callable[..., Any], secrets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """It has answered twice and refused once."""
    folder = tmp_path_factory.mktemp("admin")
    model = write_page_model(folder / "gardener", folder / "extras")
    with Ledger(folder / "ledger.sqlite") as ledger:
        secrets["boss"] = ledger.create_key("boss", is_admin=True)[1]
        secrets["clerk"] = ledger.create_key("clerk", team="shop", requests_per_minute=777)[1]
    more = ("--data", str(folder / "data"), "--price-per-hour", "10")
    server = start_server(str(model), *more, ledger=folder / "ledger.sqlite")
    headers = {"Authorization": f"Bearer {secrets['clerk']}"}
    body = {"model": str(model), "messages": [{"role": "user", "content": "Which colour? 2"}]}
    for _ in range(2):
        assert httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=SECONDS).is_success
    assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer guess"}).status_code == 401
    return server


class Desk:
    """A page at `/admin`; `page` as `violations` wants it."""

    def __init__(self, page: Any, url: str) -> None:
        from playwright.sync_api import expect

        self.page = page
        self.expect = expect
        self.faults: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url.removeprefix(url)))
        page.goto(f"{url}/admin")

    def section(self, name: str) -> Any:
        return self.page.get_by_role("region", name=name, exact=True).first

    def ready(self) -> None:
        self.page.locator(".cards").wait_for()
        self.expect(self.section("Keys and limits").locator("tbody")).to_contain_text("clerk")

    def give_key(self, secret: str) -> None:
        self.page.get_by_label("Key", exact=True).last.fill(secret)
        self.page.get_by_role("button", name="Use key").click()


@pytest.fixture
def desk(browser: Any, admin_server: Any, secrets: dict[str, str]) -> Iterator[Callable[..., Desk]]:
    contexts = []

    def new(key: str | None = "boss", **options: Any) -> Desk:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.add_init_script(NOTE_VIOLATIONS + HIDE)
        if key is not None:
            context.add_init_script(f"sessionStorage.setItem('landrace.key', '{secrets[key]}')")
        found = Desk(context.new_page(), admin_server.url)
        contexts.append((context, found))
        return found

    yield new
    for context, found in contexts:
        assert found.page.evaluate("window.violations") == []
        assert found.faults == []
        assert all(path.startswith(("/admin", "/assets/", "/v1/admin/", "blob:", "data:")) for path in found.asked)
        context.close()


def test_it_shows_what_the_server_did(desk: Callable[..., Desk]) -> None:
    shown = desk()
    shown.ready()
    shown.expect(shown.page.get_by_role("status").first).to_have_text("all well")
    model = shown.page.get_by_role("article", name="gardener")
    shown.expect(model.get_by_text("ready")).to_be_visible()
    shown.expect(model.get_by_role("img", name="Cache: ")).to_be_visible()
    shown.expect(shown.section("How answers ended")).to_contain_text("stop")
    shown.expect(shown.section("Errors")).to_contain_text("invalid_api_key")
    shown.expect(shown.section("Latency, last 5 minutes")).to_contain_text("2 answers")
    keys = shown.section("Keys and limits")
    shown.expect(keys).to_contain_text("777")
    usage = shown.section("Usage and cost")
    shown.expect(usage.locator("tbody tr")).to_have_count(1)
    shown.expect(usage.locator("tbody")).to_contain_text("clerk")
    usage.get_by_role("combobox", name="Usage by").select_option("team")
    shown.expect(usage.locator("tbody")).to_contain_text("shop")
    shown.expect(shown.section("Jobs")).to_contain_text("no batches")
    shown.expect(shown.page.get_by_role("img", name="Answers, tokens/s: ")).to_be_visible()


def test_the_key_is_asked_for_and_must_be_an_administrators(desk: Callable[..., Desk], secrets: dict[str, str]) -> None:
    shown = desk(key=None)
    shown.give_key(secrets["clerk"])
    shown.expect(shown.page.get_by_role("alert")).to_contain_text("administrators")
    shown.page.get_by_role("button", name="Use another key").click()
    shown.give_key(secrets["boss"])
    shown.ready()
    shown.expect(shown.page.get_by_role("alert")).to_be_hidden()


def test_it_asks_only_while_somebody_looks(desk: Callable[..., Desk]) -> None:
    shown = desk()
    shown.ready()
    overviews = lambda: shown.asked.count("/v1/admin/overview")  # noqa: E731
    with shown.page.expect_response("**/v1/admin/overview"):
        pass
    shown.page.evaluate("hide(true)")
    shown.page.wait_for_timeout(500)  # for a call that is under way
    before = overviews()
    shown.page.wait_for_timeout(4500)
    assert overviews() == before
    with shown.page.expect_response("**/v1/admin/overview"):
        shown.page.evaluate("hide(false)")


def test_the_bundle_is_a_file(desk: Callable[..., Desk]) -> None:
    shown = desk()
    shown.ready()
    with shown.page.expect_download() as download:
        shown.page.get_by_role("button", name="Bug report").click()
    data = Path(download.value.path()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert "landrace-report/overview.json" in archive.namelist()


def test_jobs_have_their_curves(desk: Callable[..., Desk]) -> None:
    """Of made-up jobs: real ones take their time, and `test_server_admin.py` has one."""
    losses = [
        {"step": step, "train_loss": 3 / step, "valid_loss": 4 / step if step % 5 == 0 else None}
        for step in range(1, 21)
    ]
    common = {"owner": "team:shop", "created_at": 1_700_000_000}
    job = {"id": "ftjob-1", "model": "gardener", "status": "running", "fine_tuned_model": None, "error": None}
    batch = {
        "id": "batch_1",
        "endpoint": "/v1/chat/completions",
        "status": "failed",
        "total": 9,
        "completed": 4,
        "failed": 5,
    }
    table = {"tuning": [{**common, **job, "total_steps": 40, "losses": losses}], "batches": [{**common, **batch}]}
    shown = desk()
    shown.page.route("**/v1/admin/jobs", lambda route: route.fulfill(json=table))
    shown.ready()
    running = shown.page.get_by_role("article", name="ftjob-1")
    shown.expect(running).to_contain_text("step 20 of 40")
    curve = running.get_by_role("img", name="Loss: loss 0.150, validation 0.200")
    curve.hover(position={"x": 1, "y": 5})
    shown.expect(running).to_contain_text("step 1")
    shown.expect(running).to_contain_text("3.000")
    over = shown.page.get_by_role("article", name="batch_1")
    shown.expect(over.get_by_role("img", name="4 answered, 5 failed, of 9")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_keeps_anybody_out(desk: Callable[..., Desk], theme: str) -> None:
    shown = desk(color_scheme=theme, reduced_motion="reduce")
    shown.ready()
    assert violations(shown) == []


def test_on_a_phone_nothing_is_wider_than_the_screen(desk: Callable[..., Desk]) -> None:
    shown = desk(**PHONE)
    shown.ready()
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_server_that_goes_away_is_told(desk: Callable[..., Desk]) -> None:
    shown = desk()
    shown.ready()
    shown.page.route("**/v1/admin/overview", lambda route: route.abort())
    shown.expect(shown.page.get_by_role("alert")).to_contain_text("cannot be reached")
    shown.page.unroute("**/v1/admin/overview")
    shown.expect(shown.page.get_by_role("alert")).to_be_hidden()
