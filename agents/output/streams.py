"""sys.stdout and sys.stderr: one object for the process, and a stream of its own for each run.

``print()`` writes to the object that the dictionary of ``sys`` has. There a ``_Switch`` stays for
as long as output is captured. What code assigns to ``sys.stdout``, as ``redirect_stdout`` does, is
caught by a property: in a run it changes where this run's code prints, and nothing else.
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TextIO

from ..trace import Trace, current_trace

__all__ = ["NAMES", "CapturedStream", "give_back", "put_in_place", "take_over"]

NAMES = ("stdout", "stderr")

Write = Callable[[Trace, str, str], None]  # trace, "stdout" or "stderr", text


class CapturedStream(io.TextIOBase):
    """A text stream that writes to the trace of the run that writes, else to ``original``.

    A run can't close it, nor change it: others use it, too.
    """

    def __init__(self, original: TextIO, stream: str, write: Write) -> None:
        self.original = original
        self.stream = stream
        self._write = write

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        trace = current_trace()
        if trace is None or trace.closed:
            return self.original.write(text)
        self._write(trace, self.stream, text)
        return len(text)

    def flush(self) -> None:
        # A flush by an agent is no reason to cut its line in two; output.flush(trace) ends it.
        if current_trace() is None:
            self.original.flush()

    def close(self) -> None:
        """Do nothing; Python calls it, too, when it deletes a stream."""

    def isatty(self) -> bool:
        return current_trace() is None and self.original.isatty()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.original.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.original.errors

    @property
    def buffer(self) -> Any:
        return self.original.buffer if current_trace() is None else _Bytes(self)

    def reconfigure(self, **options: Any) -> None:
        if current_trace() is None:
            self.original.reconfigure(**options)  # type: ignore[attr-defined]

    def detach(self) -> Any:
        if current_trace() is None:
            return self.original.detach()  # type: ignore[attr-defined]
        raise io.UnsupportedOperation("the process's streams can't be detached by a run")

    def __getattr__(self, name: str) -> Any:  # mode, newlines, ...: as the original has them
        return getattr(self.original, name)


class _Bytes(io.RawIOBase):
    """What ``sys.stdout.buffer`` is in a run."""

    def __init__(self, stream: CapturedStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._stream.write(bytes(data).decode("utf-8", "replace"))
        return len(data)


@dataclass(eq=False, slots=True)
class _Redirect:
    """A stream that a run has assigned, and the redirect that was there before."""

    stream: Any
    outer: _Redirect | None
    is_over: bool = False  # tasks and threads have copies of the context, and see this


def _live(redirect: _Redirect | None) -> _Redirect | None:
    """Return the innermost redirect that is not over, nor to a stream that was closed."""
    while redirect is not None and (redirect.is_over or getattr(redirect.stream, "closed", False)):
        redirect = redirect.outer
    return redirect


class _Switch:
    """What the dictionary of ``sys`` has; passes everything on to the stream of the code."""

    def __init__(self, name: str, original: TextIO, write: Write) -> None:
        self.captured = CapturedStream(original, name, write)
        self._of_host: Any = self.captured  # what code outside of runs has assigned
        self._redirect: ContextVar[_Redirect | None] = ContextVar(f"agents_{name}", default=None)

    @property
    def current(self) -> Any:
        """The stream of the code that asks."""
        if current_trace() is None:
            return self._of_host
        redirect = _live(self._redirect.get())
        return self.captured if redirect is None else redirect.stream

    @property
    def original(self) -> Any:
        """What ``sys`` gets when the capture ends."""
        return self.captured.original if self._of_host is self.captured else self._of_host

    def assign(self, stream: Any) -> None:
        """Make ``stream`` the current one, for the run of the code that asks, or for the host."""
        if stream is self:  # mock.patch reads the dictionary
            stream = self.captured
        if current_trace() is None:
            self._of_host = stream
            return
        if stream is not None and stream is getattr(sys, f"__{self.captured.stream}__"):
            # Code that redirects often ends so. It means: as it was before.
            self._redirect.set(None)
            return
        redirect = _live(self._redirect.get())
        if redirect is None:
            if stream is not self.captured:
                self._redirect.set(_Redirect(stream, None))
            return
        outer = _live(redirect.outer)
        if stream is (self.captured if outer is None else outer.stream):
            redirect.is_over = True  # the end of a redirect_stdout
        else:
            self._redirect.set(_Redirect(stream, redirect))

    def write(self, text: str, /) -> Any:
        stream = self.current
        return None if stream is None else stream.write(text)

    def flush(self) -> None:
        stream = self.current
        if stream is not None:
            stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


def _property(name: str) -> Any:
    return property(
        lambda _: _switches[name].current, lambda _, stream: _switches[name].assign(stream)
    )


class _Sys(types.ModuleType):
    """The class of ``sys`` while output is captured."""

    stdout = _property("stdout")
    stderr = _property("stderr")


_switches: dict[str, _Switch] = {}


def take_over(write: Write) -> None:
    """Start: put a switch in the place of each stream."""
    for name in NAMES:
        _switches[name] = _Switch(name, getattr(sys, name), write)
    put_in_place()
    sys.__class__ = _Sys


def give_back() -> None:
    """End: give back the streams, or those that code outside of runs has put there meanwhile."""
    sys.__class__ = types.ModuleType
    for name, switch in _switches.items():
        vars(sys)[name] = switch.original
    _switches.clear()


def put_in_place() -> None:
    vars(sys).update(_switches)
