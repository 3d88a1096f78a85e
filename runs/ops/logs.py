"""The log of this process: each line names its run, its worker and its process.

``settings.LOGGING`` refers to the classes here. A line gets its run from ``extra={"run": id}``, or
from the trace of the run that the code works for. Secrets that the process knows are redacted.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from agents.trace import current_trace
from agents.values.jsonable import clean
from agents.values.redaction import redact
from runs.process.names import process_name
from runs.wording.directions import DIRECTIONS

__all__ = [
    "AnsweredHandshake",
    "BadRequests",
    "Facts",
    "JsonLines",
    "NotUnavailable",
    "PlainLines",
    "Seldom",
    "set_worker",
]

SELDOM_SECONDS = 60.0
_MOST_WORDS = 100  # remembered; there are few, unless a message holds numbers
_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # of an object: psycopg_pool names each connection by it

_worker = ""


def set_worker(id: uuid.UUID) -> None:
    """Set the worker that this process is from now on."""
    global _worker
    _worker = str(id)


class Facts(logging.Filter):
    """Adds the process to each record, and ``run`` and ``worker`` where there is one."""

    def filter(self, record: logging.LogRecord) -> bool:
        run: object = getattr(record, "run", None)
        if run is None and (trace := current_trace()) is not None:
            run = trace.run
        if run is not None:
            record.run = str(run)
        if _worker:
            record.worker = _worker
        record.host_process = process_name()
        return True


class Seldom(logging.Filter):
    """Lets the same message of a logger pass once a minute, and counts its repeats.

    For messages that come with each retry, or each request, while Redis or PostgreSQL is away.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        words, now = record.getMessage(), time.monotonic()
        key = (record.name, record.levelno, _ADDRESS.sub("", words))
        passed_at, count = self._passed.get(key, (-SELDOM_SECONDS, 0))
        if now - passed_at < SELDOM_SECONDS:
            self._passed[key] = (passed_at, count + 1)
            return False
        if count:
            record.msg = f"{words} ({count} times more in {now - passed_at:.0f} s)"
            record.args = ()
        if len(self._passed) >= _MOST_WORDS:
            self._passed.clear()
        self._passed[key] = (now, 0)
        return True


class NotUnavailable(logging.Filter):
    """Drops the lines that Django writes for answers with the status 503."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", None) != HTTPStatus.SERVICE_UNAVAILABLE


class BadRequests(logging.Filter):
    """Takes the traceback out of what Django logs of a request that it refuses, and the Host.

    Every client can cause such lines: a foreign Host, a body that is no form.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        status = getattr(record, "status_code", None)
        is_of_django = record.name.startswith(("django.request", "django.security"))
        if is_of_django and isinstance(status, int) and status < HTTPStatus.INTERNAL_SERVER_ERROR:
            record.exc_info = record.exc_text = None
        if record.name == "django.security.DisallowedHost":
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "a request for a Host that DJANGO_ALLOWED_HOSTS has not", ()
        return True


class AnsweredHandshake(logging.Filter):
    """Drops the error that uvicorn logs for each socket that is refused with an HTTP answer.

    It takes such an answer for none (uvicorn 0.54, ``run_asgi`` of its WebSocket protocols). The
    answer and its status have a line of their own, at INFO.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in _NO_HANDSHAKE


_NO_HANDSHAKE = frozenset(
    f"ASGI callable returned without {verb} handshake." for verb in ("completing", "sending")
)


class PlainLines(logging.Formatter):
    """A line for people; the run is added unless the text names it already.

    Text may come from a client or a model. So that it can't look like an entry of its own, control
    characters are escaped, and the lines of a traceback after the first are indented.
    """

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name} {message}", style="{")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = redact(super().formatMessage(record))
        run = getattr(record, "run", None)
        return _on_one_line(line if run is None or run in line else f"{line} [run {run}]")

    def formatException(self, ei: Any) -> str:
        return _indented(_without_quotes(super().formatException(ei), ei[1]))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonLines(JsonFormatter):
    """An object for each line: time (UTC), level, logger, message, process, and run and worker."""

    def __init__(self) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger", "host_process": "process"},
            # Objects that libraries attach. Their text is long, and names the user and the address.
            reserved_attrs=[*RESERVED_ATTRS, "color_message", "request", "websocket"],
        )

    def formatException(self, ei: Any) -> str:
        return _without_quotes(str(super().formatException(ei)), ei[1])

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        log_data = super().process_log_record(log_data)
        log_data["time"] = log_data["time"].isoformat()
        cleaned: dict[str, Any] = clean(log_data, max_string=None, redacting=True)
        return cleaned


# C0 but the tab, DEL, C1; what ends a line elsewhere; what turns the direction of text.
_CONTROLS = {
    code: repr(chr(code))[1:-1]
    for code in (
        *(code for code in range(32) if code != ord("\t")),
        *range(127, 160),
        *(0x2028, 0x2029, *DIRECTIONS),
    )
}


def _on_one_line(text: str) -> str:
    """Escape what would end the line, or what a terminal would obey."""
    return text.translate(_CONTROLS)


def _indented(text: str) -> str:
    """Keep the lines of a traceback, but let none of them look like an entry of the log."""
    return "\n    ".join(_on_one_line(line) for line in text.split("\n"))


def _without_quotes(text: str, error: BaseException | None) -> str:
    """Return a traceback with only the first line of each error of a database.

    In the lines after it PostgreSQL quotes the statement, the row or the JSON that it refused.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if any(_is_of_a_database(kind) for kind in type(error).__mro__):
            text = text.replace(str(error), str(error).partition("\n")[0])
        error = error.__cause__ or error.__context__
    return text


def _is_of_a_database(kind: type) -> bool:
    return kind.__module__ == "django.db.utils" or kind.__module__.partition(".")[0] == "psycopg"
