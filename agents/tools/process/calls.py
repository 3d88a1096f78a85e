"""Run a program as a guarded call: ``tools.process(["convert", ...])``.

A thread can't be stopped, but a process can. A graceful stop waits for the program; a cut ends it
with all that it has started in its process group, and so does the worker's own end.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agents.guard import Guard, wait_out
from agents.process.labels import name_of_program
from agents.process.state import own_work
from agents.trace import Trace

__all__ = ["ProcessResult", "run_process"]

KILL_SECONDS = 5.0  # between SIGTERM and SIGKILL
MAX_OUTPUT_BYTES = 1_000_000  # of each stream, that the result keeps
MAX_LOGGED_LINES = 1_000  # of both streams together
MAX_LINE = 2_000  # characters of a line in the log
#: What a program gets of the worker's environment; the rest has the site's keys and passwords.
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a program has ended.

    Attributes:
        returncode: as of ``subprocess``: -15 if SIGTERM has ended it. 127: there is no such
            program; 126: it can't be executed.
        stdout, stderr: the beginning of its output as text.
        is_cut: there was more output than that.
    """

    returncode: int
    stdout: str
    stderr: str
    is_cut: bool = False


async def run_process(
    guard: Guard,
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    input: str | bytes | None = None,
) -> ProcessResult:
    """Run a program to its end; see ``Tools.process``."""
    if isinstance(argv, str | bytes) or not argv:
        raise TypeError('argv is a list: the program and its arguments, such as ["ls", "-l"]')
    words = [os.fspath(word) for word in argv]
    given = input.encode() if isinstance(input, str) else input
    with guard.call("process", name_of_program(words[0])) as call:
        process = _Process(guard, words, given)
        try:
            return await call.uninterrupted(process.run(cwd, _environment(env)))
        finally:
            if process.returncode is not None:
                call.data["returncode"] = process.returncode


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    if env is not None:
        return dict(env)
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class _Process:
    """One program, and the supervisor that ends it."""

    def __init__(self, guard: Guard, argv: list[str], input: bytes | None) -> None:
        self._guard = guard
        self._argv = argv
        self._input = input
        self._log = _Log(guard.trace)
        self._pipe: int | None = None  # to the supervisor
        self.returncode: int | None = None

    async def run(
        self, cwd: str | os.PathLike[str] | None, env: Mapping[str, str]
    ) -> ProcessResult:
        """Run it to its end. A cancellation ends it: by SIGTERM, and 5 s later by SIGKILL."""
        supervised, self._pipe = os.pipe()
        try:
            running = self._guard.create_task(self._run(supervised, cwd, env))
            interruption = await wait_out(running, self._end)
        finally:
            self._close_pipe()
        if interruption is not None:
            raise interruption
        return running.result()

    def _end(self) -> None:
        if self._guard.host_cancelled:
            self._close_pipe()  # at once: the process is going away
        elif self._pipe is not None:
            with suppress(OSError):  # it is over
                os.write(self._pipe, b"t")

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)

    async def _run(
        self, supervised: int, cwd: str | os.PathLike[str] | None, env: Mapping[str, str]
    ) -> ProcessResult:
        try:
            with own_work():
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", "-B", str(_SUPERVISOR)),
                    *(str(supervised), str(os.getpid()), str(KILL_SECONDS), *self._argv),
                    stdin=asyncio.subprocess.DEVNULL if self._input is None else -1,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    cwd=cwd,
                    env=env,
                    pass_fds=(supervised,),
                    start_new_session=True,
                    limit=_CHUNK_BYTES,
                )
        finally:
            os.close(supervised)
        outputs = await asyncio.gather(
            self._read("stdout", process.stdout),
            self._read("stderr", process.stderr),
            self._write(process.stdin),
        )
        self.returncode = await process.wait()
        (stdout, is_stdout_cut), (stderr, is_stderr_cut), _ = outputs
        return ProcessResult(self.returncode, stdout, stderr, is_stdout_cut or is_stderr_cut)

    async def _write(self, stdin: asyncio.StreamWriter | None) -> None:
        if stdin is None:
            return
        with suppress(ConnectionError):  # it may end without reading all
            stdin.write(self._input or b"")
            await stdin.drain()
            stdin.close()
            await stdin.wait_closed()

    async def _read(self, name: str, stream: asyncio.StreamReader | None) -> tuple[str, bool]:
        assert stream is not None
        kept, count = bytearray(), 0
        lines = self._log.lines_of(name)
        while chunk := await stream.read(_CHUNK_BYTES):
            lines.add(chunk)
            kept += chunk[: MAX_OUTPUT_BYTES - len(kept)]
            count += len(chunk)
        lines.end()
        return kept.decode(errors="replace"), count > len(kept)


class _Log:
    """Writes a program's output into the run's log, line by line, up to a limit."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._count = 0

    def lines_of(self, stream: str) -> _Lines:
        return _Lines(self, stream)

    def write(self, stream: str, line: str) -> None:
        self._count += 1
        if self._count > MAX_LOGGED_LINES:
            if self._count == MAX_LOGGED_LINES + 1:
                message = f"the program's output is left out after {MAX_LOGGED_LINES:,} lines"
                self._trace.emit("log", {"level": "warning", "message": message})
            return
        if len(line) > MAX_LINE:
            line = line[:MAX_LINE] + "…"
        self._trace.emit("stdout", {"stream": stream, "text": line}, source="agent")


class _Lines:
    """The lines of one stream, of which a chunk may end anywhere."""

    def __init__(self, log: _Log, stream: str) -> None:
        self._log = log
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def add(self, chunk: bytes, *, is_last: bool = False) -> None:
        *lines, rest = (self._rest + self._decoder.decode(chunk, is_last)).split("\n")
        self._rest = rest[: MAX_LINE + 1]  # a line without an end takes no more memory
        for line in lines:
            self._log.write(self._stream, line.removesuffix("\r"))

    def end(self) -> None:
        self.add(b"", is_last=True)
        if self._rest:
            self._log.write(self._stream, self._rest)
