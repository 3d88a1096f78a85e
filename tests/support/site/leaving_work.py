"""An agent that leaves work of every kind behind, each with a witness outside of the books."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from django.conf import settings

from agents import SyncTools, Tools, agent, cleanup
from agents.trace import current_trace

from .witnesses import note

#: Kept until they are done: asyncio only has weak references to tasks.
_kept: set[Any] = set()


@agent("witness-leaves-work")
async def leaves_work(tools: Tools, kinds: list[str], seconds: float = 0.3) -> str:
    """Leave work of these kinds behind, and call tools until a stop is observed."""
    note("start")
    for kind in kinds:
        match kind:
            case "thread":
                job = asyncio.ensure_future(asyncio.to_thread(_compute, kind, seconds))
                await asyncio.sleep(0)
                job.cancel()  # the thread goes on
            case "task":
                _keep(asyncio.create_task(_stubborn(seconds)))
            case "process":
                await _start_process(seconds)
            case "generator":
                generator = _saving(tools)
                _kept.add(generator)
                await anext(generator)
            case "child":
                _keep(asyncio.create_task(tools.agents.call("witness-computes", {})))
    await asyncio.sleep(0.02)
    note("works")
    try:
        while True:
            await tools.call_llm([{"role": "user", "content": "Tell me a long story. " * 20}])
    finally:
        note("leaves", kind="code")


@agent("witness-computes")
def computes(tools: SyncTools, seconds: float = 0.3) -> str:
    """Compute in a thread: no stop can cut that."""
    note("start")
    _compute("def", seconds)
    return "done"


def _keep(task: asyncio.Task[Any]) -> None:
    _kept.add(task)
    task.add_done_callback(_kept.discard)


def _compute(kind: str, seconds: float) -> None:
    note("begins", kind=kind)
    time.sleep(seconds)
    note("leaves", kind=kind)


async def _stubborn(seconds: float) -> None:
    """Swallow each cancellation until its time is over."""
    note("begins", kind="task")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue
    note("leaves", kind="task")


async def _start_process(seconds: float) -> None:
    trace = current_trace()
    assert trace is not None
    code = (
        "import json,sys,time\n"
        f"time.sleep({seconds})\n"
        f"line = {{'word': 'leaves', 'kind': 'process', 'run': {trace.run!r}, 'at': time.time()}}\n"
        f"open({settings.WITNESS_FILE!r}, 'a').write(json.dumps(line) + '\\n')\n"
    )
    note("begins", kind="process")
    command = f"{shlex.quote(sys.executable)} -S -c {shlex.quote(code)}"
    await asyncio.create_subprocess_shell(command)


async def _saving(tools: Tools) -> AsyncIterator[int]:
    note("begins", kind="generator")
    try:
        yield 1
    finally:
        async with cleanup():
            await tools.data_store.set("saved", 1)
        note("leaves", kind="generator")
