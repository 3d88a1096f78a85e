"""Agents that write what they do to a file, outside of the database.

Each line is one write(2) to a file that is open for appending, so the whole line is there even if
the process is killed at the next instruction: {word, run, pid, at, ...}.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from typing import Any

from django.conf import settings

from agents import SyncTools, Tools, agent, check_should_stop
from agents.trace import current_trace

__all__: list[str] = []


@functools.cache
def _file() -> int:
    return os.open(settings.WITNESS_FILE, os.O_WRONLY | os.O_APPEND)


def note(word: str, **more: Any) -> None:
    """Write a line about the run that this code belongs to."""
    trace = current_trace()
    run = trace.run if trace is not None else None
    line = {"word": word, "run": run, "pid": os.getpid(), "at": time.time(), **more}
    os.write(_file(), json.dumps(line).encode() + b"\n")


@agent("witness-once")
async def once(tools: Tools, seconds: float = 0.0) -> str:
    """Start, wait, end. It must not run twice: it isn't requeued when its worker is lost."""
    return await _work(seconds)


@agent("witness-again", on_worker_loss="requeue", max_attempts=20)
async def again(tools: Tools, seconds: float = 0.0) -> str:
    """The same, but it may be requeued."""
    return await _work(seconds)


async def _work(seconds: float) -> str:
    note("start")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.1))
        check_should_stop()
    note("end")
    return "done"


@agent("witness-quiet")
async def quiet(tools: Tools, seconds: float = 3600.0) -> str:
    """Call no tool and write nothing, but a line for each step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        note("step")
        await asyncio.sleep(0.02)
        check_should_stop()
    return "done"


@agent("witness-talker")
async def talker(tools: Tools, seconds: float = 3600.0, pause: float = 0.1) -> str:
    """Log, write to the data store and count, until stopped."""
    note("start")
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        tools.log(f"line {number}")
        note("logged", number=number)
        await tools.data_store.set("number", number)
        await asyncio.sleep(pause)
    note("end")
    return "done"


@agent("witness-caller")
async def caller(tools: Tools, url: str, seconds: float = 3600.0) -> str:
    """Request ``url`` repeatedly, and write into the data store in between, until stopped."""
    return await _call(tools, url, seconds)


@agent("witness-caller-again", on_worker_loss="requeue", max_attempts=20)
async def caller_again(tools: Tools, url: str, seconds: float = 3600.0) -> str:
    """The same, but it may be requeued; the second attempt takes a second only."""
    trace = current_trace()
    assert trace is not None
    before = await tools.data_store.get(trace.run)
    if before is not None:
        seconds = min(seconds, 1.0)
    await tools.data_store.set(trace.run, {"pid": os.getpid(), "at": time.time()})
    return await _call(tools, url, seconds)


async def _call(tools: Tools, url: str, seconds: float) -> str:
    note("start")
    trace = current_trace()
    assert trace is not None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked = {"run": trace.run, "pid": os.getpid(), "at": time.time()}
        await tools.http.get(url, params=asked)
        await tools.data_store.set(trace.run, {"pid": os.getpid(), "at": time.time()})
        await asyncio.sleep(0.02)
    note("end")
    return "done"


@agent("witness-swallower")
async def swallower(tools: Tools, seconds: float = 3600.0) -> str:
    """Catch every exception, a dozen times, and then return a success."""
    note("start")
    caught = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and caught < 12:
        try:
            now = {"pid": os.getpid(), "at": time.time()}
            await tools.data_store.set(f"swallower {id(tools)}", now)
            await asyncio.sleep(0.05)
        except BaseException:  # some authors of agents do this
            caught += 1
    note("end")
    return "all went well"


@agent("witness-thread")
def thread(tools: SyncTools, seconds: float = 3600.0) -> str:
    """Block a thread, and call a tool now and then."""
    note("start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        key = f"thread {threading.get_native_id()}"
        tools.data_store.set(key, {"pid": os.getpid(), "at": time.time()})
    note("end")
    return "done"


@agent("witness-tree")
async def tree(tools: Tools, seconds: float = 3600.0, width: int = 2, depth: int = 1) -> list[str]:
    """Call ``width`` agents at once, which do the same ``depth`` times; the last ones wait."""
    note("start")
    below: dict[str, Any] = {"seconds": seconds}
    name = "witness-once"
    if depth > 1:
        name, below = "witness-tree", {**below, "width": width, "depth": depth - 1}
    calls = (tools.agents.call(name, below) for _ in range(width))
    results = await asyncio.gather(*calls)
    note("end")
    return [str(result) for result in results]


@agent("witness-model")
async def model(tools: Tools, questions: int = 5) -> str:
    """Ask the model."""
    note("start")
    for number in range(questions):
        await tools.call_llm([{"role": "user", "content": f"Question {number}: what is there?"}])
    note("end")
    return "done"


@agent("witness-failure")
async def failure(tools: Tools, seconds: float = 0.0) -> str:
    await _work(seconds)
    raise ValueError("as it must")
