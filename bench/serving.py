"""What HTTP costs: the server's throughput beside its engine's alone, and what it adds to the first token.

    python bench/serving.py MODEL [--streams 64] [--tokens 128] [--pairs 5] [--threads N] [--json FILE]

The engine alone runs in this process, the server is `landrace serve` with the same options. Both take turns, and each
pair gives one ratio, so that what else the machine does falls on both. The client counts events as bytes and reads no
JSON, but it runs on the same machine: its processor time is told beside the server's, and neither is taken off. Of the
server, "HTTP" is its process without the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from landrace.bench.serve_load import running_server
from landrace.bench.workload import random_prompt
from landrace.engine import Request, SamplingParams
from landrace.model import ServingModel, open_engine


@dataclass(frozen=True)
class Pair:
    """One turn of each side."""

    engine_tokens_per_second: float
    server_tokens_per_second: float
    http_microseconds_per_token: float
    """Processor time."""
    client_microseconds_per_token: float
    engine_first_token: float
    """Seconds, median, one stream."""
    server_first_token: float

    @property
    def ratio(self) -> float:
        return self.server_tokens_per_second / self.engine_tokens_per_second

    @property
    def added(self) -> float:
        return self.server_first_token - self.engine_first_token


class Prompts:
    """Random tokens that nobody has seen, so that no side profits from the other's prefixes."""

    def __init__(self, vocabulary: int, tokens: int) -> None:
        self._vocabulary = vocabulary
        self._tokens = tokens
        self._count = 0
        self._run = random.randrange(2**32)

    def take(self, count: int) -> list[list[int]]:
        self._count += count
        return [
            list(random_prompt(self._vocabulary, self._tokens, "serving", self._run, self._count - n))
            for n in range(count)
        ]


def run_engine(opened: ServingModel, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
    """Seconds to the first output, and to the end."""
    engine, first = opened.engine, None
    begun = time.perf_counter()
    for number, prompt in enumerate(prompts):
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        engine.add(Request(f"r{number}", tuple(prompt), sampling))
    while engine.has_work:
        if engine.step() and first is None:
            first = time.perf_counter()
    assert first is not None
    return first - begun, time.perf_counter() - begun


async def run_server(url: str, model: str, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, float]:
    """As `run_engine`, from the first byte that is sent."""
    host, _, port = url.removeprefix("http://").partition(":")
    bodies = [body(model, prompt, tokens) for prompt in prompts]
    begun = time.perf_counter()
    firsts = await asyncio.gather(*(ask(host, int(port), sent) for sent in bodies))
    return min(firsts) - begun, time.perf_counter() - begun


def body(model: str, prompt: Sequence[int], tokens: int) -> bytes:
    fields = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
    return json.dumps({**fields, "stream": True}).encode()


async def ask(host: str, port: int, sent: bytes) -> float:
    """When the first event came."""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
    seen = await reader.readuntil(b"data: ")
    assert seen.startswith(b"HTTP/1.1 200"), seen
    first, last = time.perf_counter(), seen
    while part := await reader.read(2**16):
        last = last[-32:] + part
    assert b"[DONE]" in last, last
    writer.close()
    return first


def measure(args: argparse.Namespace) -> list[Pair]:
    opened = open_engine(args.model, threads=args.threads)
    prompts = Prompts(opened.model.decoder.spec.vocab_size, args.prompt_tokens)
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    pairs: list[Pair] = []
    with running_server(args.model, threads) as server:
        http, own = psutil.Process(server.pid), psutil.Process()

        def served(count: int, tokens: int) -> tuple[float, float]:
            return asyncio.run(run_server(server.url, args.model, prompts.take(count), tokens))

        def alone(count: int, tokens: int) -> tuple[float, float]:
            return run_engine(opened, prompts.take(count), tokens)

        for side in (alone, served):
            side(args.streams, 8)
        for number in range(args.pairs):
            seconds: dict[object, float] = {}
            firsts: dict[object, float] = {}
            spent = client = 0.0
            for side in (alone, served) if number % 2 else (served, alone):
                before = cpu_seconds(http), cpu_seconds(own)
                seconds[side] = side(args.streams, args.tokens)[1]
                if side is served:
                    spent, client = cpu_seconds(http) - before[0], cpu_seconds(own) - before[1]
                firsts[side] = statistics.median(side(1, 1)[0] for _ in range(args.first_tokens))
            made = args.streams * args.tokens
            each = 1e6 / made
            pair = Pair(
                made / seconds[alone],
                made / seconds[served],
                spent * each,
                client * each,
                firsts[alone],
                firsts[served],
            )
            pairs.append(pair)
            print(told(pair), flush=True)
    return pairs


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def told(pair: Pair) -> str:
    return (
        f"engine {pair.engine_tokens_per_second:8.1f} tok/s  server {pair.server_tokens_per_second:8.1f} tok/s"
        f"  ratio {pair.ratio:.3f}  HTTP {pair.http_microseconds_per_token:6.1f} us/token"
        f"  client {pair.client_microseconds_per_token:5.1f} us/token"
        f"  first token {pair.engine_first_token * 1e3:.1f} + {pair.added * 1e3:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--first-tokens", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pairs = measure(args)
    ratios, added = [pair.ratio for pair in pairs], [pair.added * 1e3 for pair in pairs]
    spent = statistics.median(pair.http_microseconds_per_token for pair in pairs)
    print(
        f"server/engine {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}),"
        f" first token + {statistics.median(added):.2f} ms ({min(added):.2f} to {max(added):.2f}),"
        f" HTTP {spent:.1f} us/token"
    )
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(pair) for pair in pairs], indent=1) + "\n")


if __name__ == "__main__":
    main()
