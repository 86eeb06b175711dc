"""`serve`: the OpenAI-compatible server."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit

import typer

from landrace.cli.console import err, notice, styled
from landrace.cli.endings import interrupt_as_asyncio_expects
from landrace.cli.ledgers import LEDGER_VARIABLE
from landrace.cli.options import (
    CacheDtypeOption,
    ContextKeepOption,
    ContextOverflowOption,
    DraftOption,
    KernelsOption,
    MaxLengthOption,
    WeightsOption,
)
from landrace.cli.progress import spinner
from landrace.errors import OptionError
from landrace.server.http.bounds import Bounds


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models to serve, each in a process of its own.", show_default=False)
    ] = None,
    on_demand: Annotated[
        list[str] | None, typer.Option(help="A further model, opened when it is first asked for; may be repeated.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Most memory for all models, such as 12GiB; default: nine tenths of the machine's."),
    ] = None,
    wait_seconds: Annotated[float, typer.Option(min=0, help="How long a call waits for its model to be opened.")] = 120,
    alias: Annotated[
        list[str] | None, typer.Option(help="NAME=MODEL: a further name of a model or adapter; may be repeated.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: a LoRA adapter of the first model, asked for by NAME; may be repeated."),
    ] = None,
    adapter_folder: Annotated[
        Path | None, typer.Option(help="Calls with an admin's key may load the adapters in this folder's subfolders.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8000,
    weights: WeightsOption = "stored",
    kernels: KernelsOption = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each engine; default: all cores.")] = None,
    cache_dtype: CacheDtypeOption = "auto",
    cache_tokens: Annotated[int, typer.Option(help="Tokens the key-value cache holds.")] = 16384,
    max_running: Annotated[
        int | None, typer.Option(help="Most requests in progress at once; default: 64, if a step has a token for each.")
    ] = None,
    max_step_tokens: Annotated[int, typer.Option(help="Most tokens one step computes.")] = 512,
    stall_milliseconds: Annotated[
        int, typer.Option(help="About how long prompts may hold up running streams in a step; 0: any time.")
    ] = 100,
    max_length: MaxLengthOption = None,
    context_overflow: ContextOverflowOption = "error",
    context_keep: ContextKeepOption = 4,
    draft: DraftOption = None,
    max_pending: Annotated[int, typer.Option(min=1, help="Most unfinished requests; more get status 429.")] = 1024,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="https://HOST: its pages may call the server from a browser; * is any. May be repeated."),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            envvar=LEDGER_VARIABLE,
            help="SQLite file or postgresql://USER@HOST/DATABASE that takes the usage of every request.",
        ),
    ] = None,
    usage_spill: Annotated[
        Path | None,
        typer.Option(help="Folder for usage that the ledger cannot take at the moment; default: beside the ledger."),
    ] = None,
    price_per_hour: Annotated[
        float, typer.Option(min=0, max=1e9, help="What the machine costs an hour, for the cost of each request.")
    ] = 0.0,
    keep_conversations: Annotated[
        bool,
        typer.Option("--keep-conversations", help="Keep those in the ledger whose callers agree, to learn from."),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder for files, batches and tuning jobs; without it there are none.")
    ] = None,
    tuning_threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a tuning job; default: half of the machine's.")
    ] = None,
    step_seconds: Annotated[
        float, typer.Option(min=1, help="Longest that one step may take; then its engine counts as hanging.")
    ] = 600,
    drain_seconds: Annotated[
        int, typer.Option(min=0, help="On SIGTERM or Ctrl-C, how long running requests may take to finish.")
    ] = 60,
    keys: Annotated[
        str, typer.Option(help="Whether calls need a key of the ledger: auto (off loopback), required or none.")
    ] = "auto",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="NAME or *.DOMAIN: a further name it answers to; * is any. May be repeated."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate: HTTPS instead of HTTP.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key, unless that is in the same file.")] = None,
    log_format: Annotated[str, typer.Option(help="Of the lines on stderr: text, or json, an object a line.")] = "text",
    log_calls: Annotated[
        bool | None,
        typer.Option("--log-calls/--no-log-calls", help="A line for each call; default: unless only on loopback."),
    ] = None,
    log_addresses: Annotated[bool, typer.Option("--log-addresses", help="With the clients' addresses.")] = False,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="With the texts of prompts and answers.")] = False,
    redact: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNCTION, from text to text, that texts pass before they are logged or kept."),
    ] = None,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Most connections at once; more are turned away.")
    ] = Bounds.connections,
    head_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long the headers of a request may take to come.")
    ] = Bounds.head_seconds,
    body_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long a body may take, and as long again for each 512 KiB of it.")
    ] = Bounds.body_seconds,
    idle_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long a connection is kept for the next request.")
    ] = Bounds.idle_seconds,
    send_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long a client may take nothing of what is sent to it.")
    ] = Bounds.send_seconds,
) -> None:
    """Serve models and adapters over the OpenAI API."""
    from landrace.engine.options import EngineOptions
    from landrace.server.logs.options import LogFormat, LogOptions
    from landrace.server.main import serve_models
    from landrace.server.options import ServeOptions

    if math.isnan(price_per_hour):
        raise OptionError("--price-per-hour wants a number.")
    engine = EngineOptions(
        cache_tokens=cache_tokens,
        cache_dtype=cache_dtype,
        max_running=max_running,
        max_step_tokens=max_step_tokens,
        stall_milliseconds=stall_milliseconds,
        max_length=max_length,
        context_overflow=context_overflow,
        context_keep=context_keep,
        draft=draft,
    )
    options = ServeOptions(
        [*(models or []), *(on_demand or [])],
        on_demand=on_demand or [],
        memory=None if memory is None else parse_bytes(memory),
        wait_seconds=wait_seconds,
        aliases=parse_pairs("--alias", "NAME=MODEL", alias or []),
        adapters=parse_adapters(adapter or []),
        adapter_folder=adapter_folder,
        host=host,
        port=port,
        weights=weights,
        kernels=kernels,
        threads=threads,
        engine=engine,
        max_pending=max_pending,
        ledger=ledger,
        usage_spill=usage_spill,
        price_per_hour=price_per_hour,
        keep_conversations=keep_conversations,
        data=data,
        tuning_threads=tuning_threads or max(1, (os.cpu_count() or 1) // 2),
        step_seconds=step_seconds,
        drain_seconds=drain_seconds,
        cors_origins=[checked_origin(origin) for origin in cors_origin or []],
        keys=keys,
        allowed_hosts=allowed_host or [],
        bounds=Bounds(max_connections, head_seconds, body_seconds, idle_seconds, send_seconds),
        logs=LogOptions(
            cast(LogFormat, log_format), log_calls, addresses=log_addresses, prompts=log_prompts, redact=redact
        ),
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    if not options.models:
        raise OptionError("Name a model to serve, or one with --on-demand.")
    names = ", ".join([*options.models, *options.adapters])
    with ExitStack() as opening:
        if options.logs.format == "text":
            opening.enter_context(spinner(f"Opening {names}"))

        def announce(url: str, notices: Sequence[str]) -> None:
            opening.close()
            if options.logs.format != "text":
                _log_start(names, url, notices)
                return
            for text in notices:
                notice(text)
            err.print(styled(f"Serving {names} at ", (f"{url}/v1", "bold"), ". Ctrl-C ends it."), soft_wrap=True)
            err.print(styled("Chat page: ", (f"{url}/", "bold")), soft_wrap=True)

        interrupt_as_asyncio_expects()
        serve_models(options, announce)


def _log_start(names: str, url: str, notices: Sequence[str]) -> None:
    """What is said at the start, for those who read lines of the log only."""
    log = logging.getLogger("landrace.start")
    log.setLevel(logging.INFO)
    for text in notices:
        log.warning("%s", text)
    log.info("Serving %s at %s/v1", names, url)


def parse_adapters(values: list[str]) -> dict[str, Path]:
    """NAME=FOLDER pairs."""
    return {name: Path(folder) for name, folder in parse_pairs("--adapter", "NAME=FOLDER", values).items()}


def parse_pairs(option: str, form: str, values: list[str]) -> dict[str, str]:
    """What an option that may be repeated says of names, each once."""
    pairs: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise OptionError(f"{option} wants {form}, not {text!r}.")
        if name in pairs:
            raise OptionError(f"{option} names {name!r} twice.")
        pairs[name] = value
    return pairs


def parse_bytes(text: str) -> int:
    """Of 12GiB, 800 MB or 1.5e9."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) ?(?:([kmgt]?)(i?)b?)", text.strip(), re.IGNORECASE)
    try:
        if found is None:
            raise ValueError(text)
        power = " kmgt".index(found[2].lower() or " ")
        n_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
        if n_bytes < 1:
            raise ValueError(text)
    except (ValueError, OverflowError) as error:
        raise OptionError(f"--memory wants a size such as 12GiB or 800MB, not {text!r}.") from error
    return n_bytes


def checked_origin(value: str) -> str:
    """The origin as a browser writes it in its header. Raises OptionError for what no browser sends."""
    if value == "*":
        return value
    wrong = OptionError(
        f"--cors-origin wants an origin such as https://example.org or http://localhost:3000, not {value!r}."
    )
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as error:
        raise wrong from error
    bare = url.hostname is not None and value.lower().rstrip("/") == f"{url.scheme}://{url.netloc}".lower()
    if url.scheme not in ("http", "https") or not bare or "@" in url.netloc:
        raise wrong
    standard = {"http": 80, "https": 443}[url.scheme]
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}" if port in (None, standard) else f"{url.scheme}://{host}:{port}"
