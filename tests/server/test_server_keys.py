"""A real server with a ledger of keys, and one behind TLS, as clients see them."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from patience import SECONDS, wait_until

from landrace.errors import OptionError
from landrace.ledger import Ledger
from landrace.server.http.bounds import Bounds
from landrace.server.http.uvicorn_config import make_room, tls_context

ASKED: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "ledger.db"


@pytest.fixture(scope="module")
def secrets(place: Path) -> dict[str, str]:
    with Ledger(place) as ledger:
        return {
            name: ledger.create_key(name, **how)[1]
            for name, how in {
                "support": {"tokens_per_minute": 100_000},
                "vectors": {"routes": ["embeddings"]},
                "leaver": {},
            }.items()
        }


@pytest.fixture(scope="module")
def closed(start_server: Any, tiny_model: Path, place: Path, secrets: dict[str, str]) -> Any:
    """On loopback, but its ledger has keys: so they are asked for."""
    return start_server(str(tiny_model), ledger=place)


def client(server: Any, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=secret, max_retries=0, timeout=SECONDS)


def test_the_client_with_a_key_is_served(closed: Any, secrets: dict[str, str], tiny_model: Path) -> None:
    chats = client(closed, secrets["support"]).chat.completions
    raw = chats.with_raw_response.create(model=str(tiny_model), messages=ASKED, max_tokens=4)
    assert raw.headers["x-ratelimit-limit-tokens"] == "100000"
    assert raw.parse().usage is not None
    assert list(chats.create(model=str(tiny_model), messages=ASKED, max_tokens=4, stream=True))


def test_the_client_without_one_is_not(closed: Any, secrets: dict[str, str], tiny_model: Path) -> None:
    for secret in ("guess", "landrace_guess", f"{secrets['support']}x"):
        with pytest.raises(openai.AuthenticationError):
            client(closed, secret).models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client(closed, secrets["vectors"]).chat.completions.create(model=str(tiny_model), messages=ASKED)
    assert closed.get("/health").status_code == 200
    assert closed.get("/v1/models").status_code == 401


def test_a_revoked_key_is_out_within_seconds(closed: Any, secrets: dict[str, str], place: Path) -> None:
    models = client(closed, secrets["leaver"]).models
    assert models.list()
    with Ledger(place) as ledger:
        ids = {key.name: key.id for key in list(ledger.keys())}
        ledger.revoke_key(ids["leaver"])

    def refused() -> bool:
        try:
            models.list()
        except openai.AuthenticationError:
            return True
        return False

    wait_until(refused)


def test_a_server_for_others_does_not_start_without_keys(tiny_model: Path, launch: str) -> None:
    command = [sys.executable, "-c", launch, "serve", str(tiny_model), "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode != 0
    assert "landrace keys create" in " ".join(ended.stderr.split())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of our own making, for localhost, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the certificate is made with the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    how = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    extension = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = [openssl, "req", "-x509", *how, *extension, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_tls(start_server: Any, tiny_model: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    server = start_server(str(tiny_model), "--tls-cert", str(cert), "--tls-key", str(key))
    trusting = httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), timeout=SECONDS)
    body = {"model": str(tiny_model), "prompt": "a", "max_tokens": 3, "stream": True}
    assert trusting.post(f"{server.url}/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.url.replace("https:", "http:") + "/health")


def test_one_file_may_hold_certificate_and_key(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(certificate[1].read_text() + certificate[0].read_text())
    assert tls_context(both, None) is not None
    assert tls_context(None, None) is None


def test_a_certificate_that_is_none_is_refused(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    (tmp_path / "text.pem").write_text("hello")
    wrong = [(tmp_path / "nosuch.pem", key), (tmp_path / "text.pem", key), (cert, None), (cert, tmp_path / "text.pem")]
    for pair in [*wrong, (None, key)]:
        with pytest.raises(OptionError) as caught:
            tls_context(*pair)
        assert "--tls-key is given" in caught.value.message or "cannot be used" in caught.value.message


def test_more_connections_than_files_are_refused_and_fewer_get_theirs() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        make_room(Bounds(connections=200))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 400
        if before[1] != resource.RLIM_INFINITY:
            with pytest.raises(OptionError, match="open files"):
                make_room(Bounds(connections=before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
