"""Call a function on bytes from outside in a process of its own, with limits, that a stop kills.

A file of 5 kB can keep a parser busy for minutes, and fill the memory. In a thread such a parser
can't be ended, and delays all others of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import signal
import sys
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.cancellation import CancelToken, check_should_stop, current_token, has_cleanup
from agents.guard import current_guard, wait_out
from agents.process.own_threads import COMPUTING
from agents.process.state import own_work
from agents.process.turns import Turns
from agents.tools.waiting import undisturbed

__all__ = ["ConfinedError", "Refused", "call_confined"]

CPU_SECONDS = 60
MEMORY_BYTES = 512 * 1024 * 1024
MAX_RESULT_BYTES = 100_000_000
PROCESSES = Turns(8, per_owner=2)

start_process = asyncio.create_subprocess_exec

_CHILD = Path(__file__).with_name("child.py")
_CHUNK_BYTES = 256 * 1024


class ConfinedError(Exception):
    """The function has not returned: it took too much, or failed."""


class Refused(ConfinedError):
    """The function raised a ``ValueError``; this is its message."""


async def call_confined(
    function: Callable[[bytes, str], str],
    content: bytes,
    about: str = "",
    *,
    cpu_seconds: int | None = None,
    memory_bytes: int | None = None,
) -> str:
    """Return ``function(content, about)``, computed in a process with limits.

    The process imports the function's module without running the ``__init__`` of the packages
    around it, so that it starts in 0.05 s: let the module import little. It has no environment
    variables, writes no file, and ends with this process. Some run at a time, a part of them for
    one owner; the others wait.

    Args:
        function: of a module's own level, so that the process finds it by its name.
        cpu_seconds: the most that it may compute, by default 60; twice that by the clock.
        memory_bytes: by default 512 MB. macOS sets no such limit.

    Raises:
        Refused: the function raised a ``ValueError``.
        ConfinedError: it took too much time or memory, failed in another way, or its module can't
            be imported there, as one that imports Django's models.
        AgentStopped: a stop was requested; the process was killed.
    """
    check_should_stop()
    guard, token = current_guard(), current_token()
    loop = asyncio.get_running_loop()
    job: dict[str, Any] = {
        "about": about,
        "module": function.__module__,
        "function": function.__qualname__,
        "packages": _packages_around(function.__module__),
        "path": _absolute(sys.path),
        "parent": os.getpid(),
        "cpu_seconds": cpu_seconds or CPU_SECONDS,
        "memory_bytes": memory_bytes or MEMORY_BYTES,
    }
    work = _call(None if guard is None else guard.owner, job, content)
    task = loop.create_task(work) if guard is None else guard.create_task(work)

    def cancel() -> None:
        task.cancel()

    def end(_: CancelToken) -> None:
        with suppress(RuntimeError):  # the loop is closed
            # In no context: the stop may come from the code of another run.
            loop.call_soon_threadsafe(cancel, context=contextvars.Context())

    if token is not None and not has_cleanup():
        token.add_callback(end)
    try:
        interruption = await wait_out(task, cancel)
    finally:
        if token is not None:
            token.remove_callback(end)
    if interruption is not None:
        raise interruption
    if task.cancelled():
        check_should_stop()
    returncode, answer = task.result()
    if returncode == 0 and answer[:1] == b"=":
        # Off the loop: ten megabytes take up to 50 ms.
        return await COMPUTING.run(answer[1:].decode)
    raise _error(returncode, answer, job)


async def _call(owner: Hashable, job: dict[str, Any], content: bytes) -> tuple[int, bytes]:
    seconds = 2 * job["cpu_seconds"]
    end_turn = await PROCESSES.take(owner)
    try:
        with own_work():
            process = await start_process(
                *(sys.executable, "-I", "-S", "-B", str(_CHILD)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
                limit=_CHUNK_BYTES,
            )
        try:
            async with asyncio.timeout(seconds):
                answer = await _converse(process, [json.dumps(job).encode(), content])
                return await process.wait(), answer
        except TimeoutError as error:
            raise ConfinedError(f"it takes more than {seconds} s") from error
        finally:
            _kill(process)
            await undisturbed(_leave(process))
    except OSError as error:
        raise ConfinedError(f"no process can be started for it: {error.strerror}") from error
    finally:
        end_turn()


async def _converse(process: asyncio.subprocess.Process, parts: list[bytes]) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    # The pipe stays open: its end is how the child learns that this process is gone.
    for part in parts:
        process.stdin.write(len(part).to_bytes(8, "big"))
        process.stdin.write(part)
    answer = bytearray()
    while chunk := await process.stdout.read(_CHUNK_BYTES):
        answer += chunk
        if len(answer) > MAX_RESULT_BYTES:
            raise ConfinedError(f"it gives more than {MAX_RESULT_BYTES:,} bytes")
    return bytes(answer)


def _error(returncode: int, answer: bytes, job: dict[str, Any]) -> ConfinedError:
    if returncode == -signal.SIGXCPU:
        return ConfinedError(f"it takes more than {job['cpu_seconds']} s of computing")
    if returncode:
        return ConfinedError(f"its process has ended with {returncode}")
    kind, text = answer[:1], answer[1:].decode("utf-8", "replace")
    if kind == b"m":
        return ConfinedError(f"it takes more than {job['memory_bytes'] // 1024**2} MB of memory")
    if kind == b"i":
        return ConfinedError(
            f"{job['module']} can't be imported in a process of its own ({text}): put the function"
            " into a module that imports little"
        )
    return Refused(text) if kind == b"!" else ConfinedError(f"it has failed with {text}")


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:  # else the id may be another's
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


async def _leave(process: asyncio.subprocess.Process) -> None:
    await process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    while await process.stdout.read(_CHUNK_BYTES):
        pass  # to its end, so that asyncio closes the pipe


def _packages_around(module: str) -> dict[str, list[str]]:
    names = module.split(".")[:-1]
    packages = [".".join(names[: count + 1]) for count in range(len(names))]
    return {name: _absolute(sys.modules[name].__path__) for name in packages}


def _absolute(places: Iterable[str]) -> list[str]:
    return [os.path.abspath(place) for place in places]
