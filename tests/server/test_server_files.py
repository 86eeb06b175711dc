"""Files over the API: kept whole, each owner's own, and never a path."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest

from landrace.errors import OptionError
from landrace.server.access.caller import Caller
from landrace.server.engines.registry import Registry
from landrace.server.http.errors import ApiError
from landrace.server.jobs.files import FileStore
from landrace.server.jobs.jobs import Jobs
from landrace.server.jobs.records import owner_of, public


@pytest.fixture(scope="module")
def keeping(start_server: Callable[..., Any], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_server(str(tiny_model), "--data", str(tmp_path_factory.mktemp("data")))


def test_the_openai_client_keeps_files(keeping: Any) -> None:
    files = keeping.client.files
    made = files.create(file=("rows.jsonl", b'{"a": 1}\n'), purpose="fine-tune")
    assert (made.bytes, made.filename, made.purpose, made.object) == (9, "rows.jsonl", "fine-tune", "file")
    assert files.retrieve(made.id) == made
    assert files.content(made.id).read() == b'{"a": 1}\n'
    others = [files.create(file=(f"{n}.txt", b"x" * n), purpose="user_data") for n in range(3)]
    assert [one.id for one in files.list(purpose="user_data", order="asc")] == [one.id for one in others]
    page = files.list(limit=2)
    assert [one.id for one in page.data] == [others[2].id, others[1].id]
    assert [one.id for one in files.list(limit=2, after=others[1].id).data] == [others[0].id, made.id]
    assert files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        files.retrieve(made.id)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\nb", "", "x" * 3000, "ü\u202e.txt"])
def test_a_name_is_a_label(keeping: Any, name: str) -> None:
    answer = keeping.http.post(
        f"{keeping.url}/v1/files", files={"file": (name or "upload", b"data")}, data={"purpose": "user_data"}
    )
    assert answer.status_code == 200
    assert len(answer.json()["filename"]) <= 256


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "file-../x", "file-" + "0" * 24, "lock", "%00"])
def test_an_id_is_no_path(keeping: Any, path: str) -> None:
    for url in (f"/v1/files/{path}", f"/v1/files/{path}/content"):
        assert keeping.get(url).status_code == 404


def test_what_is_no_upload_is_refused_by_name(keeping: Any) -> None:
    url = f"{keeping.url}/v1/files"
    for how, param, code in (
        ({"json": {}}, None, "invalid_content_type"),
        ({"data": {"purpose": "batch"}, "files": {"other": b""}}, "other", "unknown_parameter"),
        ({"files": {"file": b"x"}}, "purpose", "invalid_value"),
        ({"files": {"file": b"x"}, "data": {"purpose": "theft"}}, "purpose", "invalid_value"),
        ({"content": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data"}}, None, "invalid_form"),
    ):
        answer = keeping.http.post(url, **how)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error


def test_a_large_file_is_taken_and_one_that_is_too_large_is_not(keeping: Any) -> None:
    large = b"x" * (9 * 2**20)
    made = keeping.client.files.create(file=("large", large), purpose="user_data")
    assert made.bytes == len(large)
    keeping.client.files.delete(made.id)


def test_a_server_without_a_folder_says_so(server: Any) -> None:
    for path in ("/v1/files", "/v1/files/file-1", "/v1/batches"):
        answer = server.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_data_folder")


def test_the_store_is_bounded_and_leaves_nothing_half(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_bytes=10)
    first = store.add(BytesIO(b"123456"), name="a", purpose="batch", owner="")
    with pytest.raises(ApiError, match="10 bytes"):
        store.add(BytesIO(b"12345"), name="b", purpose="batch", owner="")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{first['id']}.data", f"{first['id']}.json"]
    (tmp_path / "file-00ff.data").write_bytes(b"cut off")
    (tmp_path / "file-0123.json").write_text("{")
    again = FileStore(tmp_path, max_bytes=10)
    assert again.records.all() == [first]
    assert not (tmp_path / "file-00ff.data").exists()


def test_what_is_kept_is_its_owners(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_bytes=100)
    alone, teammate, other = (
        Caller("1", "a", team="red", is_admin=False),
        Caller("2", "b", team="red", is_admin=False),
        Caller("3", "c", is_admin=False),
    )
    made = store.add(BytesIO(b"x"), name="a", purpose="batch", owner=owner_of(alone))
    assert store.records.find(made["id"], teammate) == made
    assert "owner" not in public(made)
    with pytest.raises(ApiError) as refused:
        store.records.find(made["id"], other)
    assert refused.value.status == 404
    assert store.records.page(other, after=None, limit=5)["data"] == []
    assert len(store.records.page(Caller("4"), after=None, limit=5)["data"]) == 1


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    first = Jobs(tmp_path, Registry([]), tuning_threads=1)
    with pytest.raises(OptionError, match="Another server"):
        Jobs(tmp_path, Registry([]), tuning_threads=1)
    del first
