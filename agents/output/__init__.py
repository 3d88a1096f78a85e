"""print() and logging of an agent go to its own trace.

``install`` takes over ``sys.stdout`` and ``sys.stderr`` once per process; see ``streams``. A line
goes to the trace of the code that writes it; outside any run the text goes where it went before. So
any number of runs can print at once, each may redirect what it prints, and none can break or steal
what the others print.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from ..trace import Trace, current_trace
from ..values import jsonable
from .streams import give_back, take_over

__all__ = ["flush", "install", "uninstall"]

MAX_PENDING = 8_192  # characters of a line without an end that are kept back

#: Libraries that log what the tools' own events already say; only their warnings are kept.
_QUIET = ("asyncio", "httpcore", "httpcore2", "httpx", "httpx2", "openai")


class _TraceHandler(logging.Handler):
    """Copies log records made inside a run to its trace; no run can set its level."""

    def __init__(self, level: int) -> None:
        self._least = level
        super().__init__()

    @property
    def level(self) -> int:
        return self._least

    @level.setter
    def level(self, _: int) -> None:
        """Do nothing: agents set the levels of all handlers that they find."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Do as a handler does, but without its lock: traces have locks of their own.

        With one lock, runs would wait for each other, and two threads could deadlock: one that
        logs, and one whose trace is being written when a finaliser logs.
        """
        passed: object = self.filter(record)  # from Python 3.12 on it may be another record
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        trace = current_trace()
        if trace is None:
            if self._is_alone(logging.getLogger(record.name)):
                _print_as_without_us(record)
            return
        if record.levelno < logging.WARNING and record.name.partition(".")[0] in _QUIET:
            return
        try:
            message = record.getMessage()
        except Exception as error:
            message = f"{jsonable.clean(record.msg)} ({jsonable.error_text(error)})"
        data: dict[str, Any] = {
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.exc_info:
            data["traceback"] = logging.Formatter().formatException(record.exc_info)
        trace.emit("log", data, source="agent")

    def _is_alone(self, logger: logging.Logger | None) -> bool:
        """Tell whether no other handler gets what a logger logs."""
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True


def _print_as_without_us(record: logging.LogRecord) -> None:
    """Print a warning as Python does where no handler is set up, as in a fresh Django site."""
    if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
        logging.lastResort.handle(record)


_handler: _TraceHandler | None = None
_install_count = 0
_install_lock = threading.Lock()


def install(level: int = logging.INFO) -> None:
    """Start to capture; repeats are counted and need as many ``uninstall()``."""
    global _handler, _install_count
    with _install_lock:
        _install_count += 1
        if _install_count > 1:
            return
        take_over(_write)
        _handler = _TraceHandler(level)
        logging.getLogger().addHandler(_handler)


def uninstall() -> None:
    """Give back the streams, unless other code has replaced them meanwhile."""
    global _handler, _install_count
    with _install_lock:
        if not _install_count:
            return
        _install_count -= 1
        if _install_count:
            return
        give_back()
        if _handler is not None:
            logging.getLogger().removeHandler(_handler)
            _handler = None


def flush(trace: Trace) -> None:
    """Write the unfinished lines of a run; at its end."""
    for key in list(trace.pending_output):
        _emit(trace, key[0], trace.pending_output.pop(key, ""))


def _write(trace: Trace, stream: str, text: str) -> None:
    """Write whole lines, or a line that grew too long, and keep the rest.

    Needs no lock: a thread has its own lines. A finaliser may print while it is in here.
    """
    key, pending = (stream, threading.get_ident()), trace.pending_output
    text = pending.pop(key, "") + text
    whole, newline, rest = text.rpartition("\n")
    if len(rest) > MAX_PENDING:
        whole, newline, rest = text, "", ""
    if rest:
        pending[key] = rest + pending.get(key, "")
    if whole or newline:
        _emit(trace, stream, whole + newline)


def _emit(trace: Trace, stream: str, text: str) -> None:
    trace.emit("stdout", {"stream": stream, "text": text.removesuffix("\n")}, source="agent")
