"""The documents say what is so: rooms, links, commands, options, fields, formats and examples are checked."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from landrace.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
COMMANDS: Mapping[str, Any] = vars(typer.main.get_command(app))["commands"]
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""What the parser raises for any mistake; typer gives it no public name."""
STORE_VERBS = {"pull", "list", "show", "remove"}
VECTOR_VERBS = {"embed", "rerank"}
LEDGER_VERBS = {"keys", "usage"}
SHARED_GUIDES = {
    "store.md": STORE_VERBS,
    "embeddings.md": VECTOR_VERBS,
    "ledger.md": LEDGER_VERBS,
    "servers.md": {"ps", "stop"},
}
"""The guides to several verbs; every other verb has its own."""
SHELL = {"sh", "bash", "console", "shell"}

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`(landrace [^`]*)`")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match["language"] in languages:
            yield match["body"]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def words_in_code(page: Path) -> set[str]:
    """Every word that stands in back quotes."""
    return {word for span in re.findall(r"`([^`\n]+)`", prose(page)) for word in re.findall(r"[\w.-]+", span)}


def commands(page: Path) -> Iterator[list[str]]:
    """The `landrace` commands of a page's shell blocks, as arguments."""
    for body in blocks(page, *SHELL):
        for line in body.replace("\\\n", " ").splitlines():
            for part in _parts(line):
                while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                    part = part[1:]
                if part and part[0] == "landrace":
                    yield part[1:]


def _parts(line: str) -> Iterator[list[str]]:
    """A shell line, cut at pipes and the like."""
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    part: list[str] = []
    for token in lexer:
        if set(token) <= set("|&;<>"):
            yield part
            part = []
        else:
            part.append(token)
    yield part


def heading_ids(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_are_pages_and_commands() -> None:
    assert {"README.md", "docs/index.md", "docs/architecture.md"} <= set(map(name_of, PAGES))
    assert len([command for page in PAGES for command in commands(page)]) > 20


def test_the_room_table_is_the_truth() -> None:
    house = runpy.run_path(str(Path(__file__).with_name("test_architecture.py")))
    may_use, only, top = house["MAY_USE"], house["ONLY"], house["TOP"]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| room |")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert all(len(line) == 4 and all(line) for line in lines)

    written = {cells[0].strip("`").removesuffix("/"): cells[3] for cells in lines}
    folders = {path.name for path in (ROOT / "landrace").iterdir() if (path / "__init__.py").exists()}
    assert sorted(cells[0] for cells in lines) == sorted([top, *(f"`{folder}/`" for folder in folders)])

    def cell(room: str) -> str:
        if may_use[room] == house["EVERYTHING"]:
            return "everything"
        used = [_limited(other, only.get((room, other))) for other in may_use if other in may_use[room]]
        return ", ".join(used) or "nothing"

    assert written == {room: cell(room) for room in may_use}


def _limited(room: str, parts: tuple[str, ...] | None) -> str:
    return room if parts is None else f"{room} ({', '.join(part.removeprefix(f'{room}.') for part in parts)} only)"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in heading_ids(there), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_would_be_understood(page: Path) -> None:
    """Every command in a shell block is parsed whole, options, values and missing arguments included."""
    for arguments in commands(page):
        problem = parse_problem(arguments)
        assert problem is None, f"{name_of(page)}: landrace {shlex.join(arguments)}: {problem}"
    for text in INLINE_COMMAND.findall(prose(page)):
        verb, *rest = text.split()[1:]
        assert verb in COMMANDS or verb in ("--version", "--help"), f"{name_of(page)}: {text}"
        unknown = {word for word in rest if word.startswith("--")} - options(verb)
        assert not unknown, f"{name_of(page)}: {text}"


def options(*verbs: str) -> set[str]:
    return {
        option
        for verb in verbs
        if verb in COMMANDS
        for command in (COMMANDS[verb], *vars(COMMANDS[verb]).get("commands", {}).values())
        for item in command.params
        for option in item.opts
    }


def parse_problem(arguments: list[str]) -> str | None:
    """What the command line says of these arguments, short of running them."""
    verb, *rest = arguments
    if verb not in COMMANDS:
        return "there is no such verb"
    command = COMMANDS[verb]
    inner = vars(command).get("commands")
    if inner is not None and rest:
        verb, *rest = rest
        if verb not in inner:
            return "there is no such command of the verb"
        command = inner[verb]
    try:
        command.make_context(verb, rest)
    except USAGE_ERROR as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_the_command_check_can_fail() -> None:
    assert parse_problem(["run", "smollm2", "--temprature", "0"]) is not None
    assert parse_problem(["compare", "smollm2"]) is not None
    assert parse_problem(["run", "smollm2", "--top-k", "many"]) is not None
    assert parse_problem(["measure", "smollm2"]) is not None
    assert parse_problem(["keys", "forge", "ann", "--ledger", "x"]) is not None
    assert parse_problem(["keys", "create", "ann", "--ledger", "x", "--priorty", "1"]) is not None
    assert parse_problem(["keys", "create", "ann", "--ledger", "x", "--priority", "1"]) is None
    assert parse_problem(["run", "smollm2", "Hello", "--top-k", "5"]) is None


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_a_guide_names_only_options_that_exist(verb: str) -> None:
    shared = ((name, verbs) for name, verbs in SHARED_GUIDES.items() if verb in verbs)
    name, verbs = next(shared, (f"{verb}.md", {verb}))
    page = ROOT / "docs" / name
    assert page.exists()
    named = {word for span in re.findall(r"`([^`\n]+)`", prose(page)) for word in re.findall(r"(?<!\S)--[\w-]+", span)}
    assert named <= options(*verbs)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_examples_are_json(page: Path) -> None:
    for body in blocks(page, "json"):
        json.loads(body)
    for body in blocks(page, "jsonl"):
        for line in body.splitlines():
            assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_import_what_exists(page: Path) -> None:
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), f"{name_of(page)}: {node.module}"


def test_the_readme_example_runs(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [body for body in blocks(ROOT / "README.md", "python") if "open_engine" in body]
    assert '"smollm2"' in example
    exec(example.replace('"smollm2"', repr(str(smollm2_path))), {})
    assert "length 40" in capsys.readouterr().out


def test_the_example_task_and_rows_are_usable(tmp_path: Path) -> None:
    from landrace.evaluation.task import task_from_dict

    page = ROOT / "docs" / "evaluate.md"
    value, extraction = (json.loads(body) for body in blocks(page, "json"))
    task = task_from_dict(value, base=tmp_path)
    ticket = {"written": "Tuesday 2026-02-03", "text": "Where is my money?"}
    records = task_from_dict(extraction).from_rows([{**ticket, "record": {"code": None, "summary": "Wants money"}}])
    assert records.rows[0].expected == ('{"code": null, "summary": "Wants money"}',)
    rows, others = blocks(page, "jsonl")
    assert len(task.from_rows(map(json.loads, rows.splitlines())).rows) == 2
    exact, choice = map(json.loads, others.splitlines())
    common = {"name": "example", "template": "{question}"}
    task_from_dict({**common, "kind": "exact"}).from_rows([exact])
    fields = {"choices": "options"}
    (row,) = task_from_dict({**common, "kind": "choice", "fields": fields}).from_rows([choice]).rows
    assert row.expected == ("pear",)


def test_the_guide_to_the_ledger_names_every_option_of_its_verbs() -> None:
    text = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    assert {option for option in options(*LEDGER_VERBS) if f"{option}" not in text} <= {"--help", "-h"}


def test_the_example_training_rows_and_log_are_usable() -> None:
    from landrace.training.data import parse_row
    from landrace.training.log import StepReport

    rows, log = blocks(ROOT / "docs" / "tune.md", "jsonl")
    assert [type(parse_row(json.loads(line), "row")).__name__ for line in rows.splitlines()] == [
        "ChatRow",
        "CompletionRow",
    ]
    StepReport(**json.loads(log))


def test_evaluate_names_every_key_of_a_task() -> None:
    import dataclasses

    from landrace.evaluation.parsing import Normalisation
    from landrace.evaluation.task import Fields, Task

    keys = {field.name for shape in (Task, Fields, Normalisation) for field in dataclasses.fields(shape)}
    assert keys <= words_in_code(ROOT / "docs" / "evaluate.md")


def test_serve_names_every_field_of_the_api() -> None:
    from landrace.server.openai.schema import ChatRequest, CompletionRequest
    from landrace.server.openai.unsupported import OF_A_CALL, OF_A_MESSAGE

    text = prose(ROOT / "docs" / "serve.md")
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    honoured, messages = sections["Fields that are honoured"], sections["Messages"]
    fields = set(ChatRequest.model_fields) | set(CompletionRequest.model_fields)
    assert set(re.findall(r"`(\w+)`(?=[^|\n]*\|)", honoured)) == fields
    assert OF_A_MESSAGE.keys() <= set(re.findall(r"`(\w+)`", messages))
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|$", sections["Fields that are not implemented"], re.MULTILINE)
    told = {name: values for names, values in rows for name in re.findall(r"`(\w+)`", names)}
    assert told.keys() == OF_A_CALL.keys()
    for name, neutral in OF_A_CALL.items():
        if isinstance(neutral, type):
            assert "label" in told[name]
        else:
            assert [json.loads(value) for value in re.findall("`([^`]*)`", told[name])] == [*neutral], name


def test_the_path_of_a_request_names_files_that_exist() -> None:
    text = prose(ROOT / "docs" / "architecture.md").partition("## The path of a request")[2]
    named = re.findall(r"`(\w+/[\w/]+(?:\.py|/))`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "landrace" / name).exists()] == []


def test_families_names_what_can_be_opened() -> None:
    from landrace.models.families import FAMILIES, TEXT_HALVES
    from landrace.models.families.gguf_architectures import ARCHITECTURES

    page = ROOT / "docs" / "families.md"
    assert {*FAMILIES, *TEXT_HALVES, *ARCHITECTURES} <= words_in_code(page)
    cells = re.findall(r"^\| (`[^|]+`) \|", prose(page), re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named - {"model_type"} <= {*FAMILIES, *TEXT_HALVES}


def test_checkpoints_names_every_form_and_how_it_is_kept() -> None:
    from landrace.checkpoints.quantised import FORMS
    from landrace.kernels.cpu.weights import KINDS
    from landrace.kernels.reference.blocks import BLOCKS

    page = ROOT / "docs" / "checkpoints.md"
    assert {form for form in FORMS if "/" not in form} <= words_in_code(page)
    assert set(BLOCKS) <= set(re.findall(r"\w+", prose(page)))
    kept = re.findall(r"^\| ([A-Z][\w, ]+) \| (as they are|packed|unpacked to float32) \|", prose(page), re.MULTILINE)
    named = {name: how for names, how in kept for name in names.split(", ")}
    of_ggml = {name for name, block in BLOCKS.items() if block.ggml_id is not None}
    assert {name for name, how in named.items() if how != "unpacked to float32"} == of_ggml & set(KINDS)
    assert set(named) == of_ggml


def test_the_makefile_has_the_targets_that_are_named() -> None:
    rules = re.findall(r"^([a-z -]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:`|^|CPU )make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "test-all"} <= named <= targets


def test_continuous_integration_runs_a_command_of_the_readme() -> None:
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert last == "make test-all"
    assert any(last in body.splitlines() for body in blocks(ROOT / "README.md", *SHELL))


def test_the_licence_is_the_plain_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:5] == ["Apache", "License", "Version", "2.0,", "January"]
    assert "Copyright [yyyy] [name of copyright owner]" in text
    assert [line for line in text.splitlines() if re.match(r"\s*Copyright \(c\)|\s*Copyright \d", line)] == []
