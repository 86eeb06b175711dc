"""A task of the server's event loop that writes down, a hundred times a second, what kept it from its turn."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from turns import Turns


def give_pulse(file: str) -> None:
    """Servers of this process write into `file` from now on: a line for each turn, in seconds as `Turns` counts."""
    serve = uvicorn.Server.serve

    async def serve_with_pulse(server: uvicorn.Server, *arguments: Any, **options: Any) -> None:
        beating = asyncio.create_task(_beat(file))
        try:
            await serve(server, *arguments, **options)
        finally:
            beating.cancel()

    uvicorn.Server.serve = serve_with_pulse  # type: ignore[method-assign]


async def _beat(file: str) -> None:
    turns = Turns()
    with open(file, "a", buffering=1) as lines:
        while True:
            await asyncio.sleep(0.01)
            print(turns.tick(), file=lines)
