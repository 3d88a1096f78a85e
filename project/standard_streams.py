"""Standard streams that can't fail a command: its exit code tells how its work has ended.

Otherwise a reader that leaves (`| head -1`), a full disk or a closed descriptor (`2>&-`) decides:
the write raises in the middle of a run, or Python's last flush turns the exit code into 120. And a
terminal of an old locale refuses characters.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, BinaryIO, TextIO, cast

__all__ = ["make_robust"]


class _Forgiving(io.RawIOBase):
    """Writes to a descriptor until that fails, and then to nowhere."""

    mode = "wb"

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self._has_failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._has_failed:
            return len(view)
        try:
            written = 0
            while written < len(view):  # without a buffer above, the rest would be lost
                written += os.write(self._descriptor, view[written:])
            return written
        except BlockingIOError:
            return written + self._write_later(view[written:])
        except OSError as error:
            self._has_failed = True
            if self._descriptor == 1 and not isinstance(error, BrokenPipeError) and sys.stderr:
                sys.stderr.write(f"Standard output can't be written: {error.strerror}.\n")
            return len(view)

    def _write_later(self, view: memoryview) -> int:
        """Wait for a pipe that another program has set not to block."""
        os.set_blocking(self._descriptor, True)
        return self.write(view)


def make_robust() -> None:
    """Replace the standard streams of this process; for the start of a program.

    A closed descriptor is opened on /dev/null. If it stayed closed, the database's file or a socket
    would get its number, and what is printed by C code would go there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    # A result goes out as it is or not at all; see _print_result of run_agent for old locales.
    sys.stdout = _robust(sys.stdout, 1)
    sys.stderr = _robust(sys.stderr, 2)


def _robust(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        stream.flush()
    raw = _Forgiving(descriptor, "<stdout>" if descriptor == 1 else "<stderr>")
    is_error, is_terminal = descriptor == 2, raw.isatty()
    # With PYTHONUNBUFFERED, as in containers, each write leaves at once.
    is_unbuffered = bool(getattr(stream, "write_through", False))
    robust = io.TextIOWrapper(
        cast(BinaryIO, raw) if is_unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=is_error or is_terminal,
        write_through=is_error or is_unbuffered,
    )
    robust.mode = "w"  # type: ignore[misc]  # as open() sets it
    return robust
