"""The program of the process in which a chat template runs, for a template is a program from a stranger.

Jinja's sandbox keeps it from the machine, and the operating system bounds what it takes: a job that needs more
processor time than it was given ends this process, memory beyond the limit is refused. Nothing has to be counted, so
nothing can be forgotten. `template_process.py` starts this file by its path, so it imports nothing of the package.

Frames go over standard input and output: four bytes of length, then the payload. The first frame that comes in is a
pickled `Start`, every other one a pickled `Job`; to each job goes out one byte that says how it ended, and text.

Jinja is imported where it is used: the package reads the names of the endings here and must not pay for it.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from jinja2 import Environment, Template

Start = tuple[dict[str, str], float, int, int]
"""Templates by name; seconds of processor time for a job; bytes of memory; characters of a result."""
Job = tuple[str, dict[str, Any], datetime]
"""Which template, its variables, and what time it is."""

WRITTEN, REFUSED, UNWRITABLE, BROKEN, STOPPED = b"W", b"R", b"U", b"B", b"S"
"""How a job ends: with the text; by the template's own raise_exception; by an error on these messages, the sandbox's
included; by a template that cannot be compiled; at a bound. All but the first come with the reason."""
_MAX_REASON = 300


class TemplateRefusalError(Exception):
    """The template called raise_exception: it does not accept these messages."""


class Renderer:
    """The templates in `sources`, compiled when they are first asked for."""

    def __init__(self, sources: Mapping[str, str], max_size: int) -> None:
        self._sources = sources
        self._max_size = max_size
        self._compiled: dict[str, Template] = {}
        self._now = datetime.now()
        self._environment = _environment()
        self._environment.globals["strftime_now"] = lambda pattern: self._now.strftime(pattern)

    def outcome(self, job: Job) -> tuple[bytes, str]:
        """How the job ends, and the text or the reason."""
        from jinja2.exceptions import TemplateSyntaxError

        name, variables, self._now = job
        try:
            return self._written(self._template(name), variables)
        except TemplateSyntaxError as error:
            return BROKEN, f"line {error.lineno}: {error.message}"
        except (SyntaxError, RecursionError) as error:  # Python's own compiler, on what jinja made of the template
            return BROKEN, type(error).__name__
        except MemoryError:
            return STOPPED, "it takes too much memory"

    def _template(self, name: str) -> Template:
        if name not in self._compiled:
            self._compiled[name] = self._environment.from_string(self._sources[name])
        return self._compiled[name]

    def _written(self, template: Template, variables: Mapping[str, Any]) -> tuple[bytes, str]:
        pieces: list[str] = []
        left = self._max_size
        try:
            for piece in template.generate(variables):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    return STOPPED, f"it writes more than {self._max_size:,} characters"
        except TemplateRefusalError as error:
            return REFUSED, str(error)
        except MemoryError:
            raise
        except RecursionError:
            return STOPPED, "it calls itself too often"
        except Exception as error:  # noqa: BLE001 (a template is a program: it can raise anything on messages it did not expect)
            return UNWRITABLE, str(error) or type(error).__name__
        return WRITTEN, "".join(pieces)


def _environment() -> Environment:
    """Jinja as chat templates expect it: the settings and helpers of `transformers`."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

    class GenerationBlock(Extension):
        """`{% generation %}` marks the assistant's part for trainers; its body is rendered where it stands."""

        tags = frozenset({"generation"})  # type: ignore[assignment]

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    # Not the one of `transformers`, which lets no list be changed: what a template has here is a copy, and Kimi-K2's
    # keeps lists of its own.
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _refuse(message: Any) -> None:
    raise TemplateRefusalError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bound_memory(size: int) -> None:
    """Refuses this process more than `size` bytes; no core file if it dies of it."""
    try:
        import resource
    except ImportError:  # not a POSIX system: the parent's clock is what bounds it there
        return
    for kind, limit in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        _, most = resource.getrlimit(kind)
        allowed = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (allowed, allowed))


def _timer() -> Callable[[float], object]:
    """Sets how much processor time is left before the system ends this process; 0: no limit."""
    import signal

    if not hasattr(signal, "setitimer"):
        return lambda seconds: None
    # Without a handler of Python's: that one would wait for the end of a long operation, which may never come.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    return lambda seconds: signal.setitimer(signal.ITIMER_PROF, seconds)


def _read_frame(stream: BinaryIO) -> bytes | None:
    """The next payload; None at the end."""
    size = stream.read(4)
    return stream.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def main() -> None:
    jobs, results = sys.stdin.buffer, sys.stdout.buffer
    start = _read_frame(jobs)
    if start is None:
        return
    sources, seconds, memory, max_size = pickle.loads(start)
    _bound_memory(memory)
    limit_time = _timer()
    renderer = Renderer(sources, max_size)
    while (frame := _read_frame(jobs)) is not None:
        job: Job = pickle.loads(frame)
        limit_time(seconds)
        ending, text = renderer.outcome(job)
        limit_time(0)
        payload = ending + (text if ending == WRITTEN else text[:_MAX_REASON]).encode("utf-8", "surrogatepass")
        results.write(len(payload).to_bytes(4, "big") + payload)
        results.flush()


if __name__ == "__main__":
    main()
