"""The process's log: which run a line is about, as JSON and in plain lines, and no secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, DataError

from agents.values import redaction
from runs.models import RunRecord
from runs.ops import logs
from runs.process import names
from tests.support.rows import make_run
from tests.support.server import Installation, eventually

REFUSED = """unsupported Unicode escape sequence
LINE 1: UPDATE runs_runrecord SET result = '{"a": "a patient of 41...
                                           ^
DETAIL:  \\u0000 cannot be converted to text.
CONTEXT:  JSON data, line 1: {"a": "a patient of 41 \\u0000..."""
RUN = "01890b6f-6b7f-7cc3-a1b2-8a5d3a1c9f10"


@pytest.fixture(params=[logs.JsonLines, logs.PlainLines])
def written(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Capture the logger ``tests.logs``; yields a function that returns the text."""
    logger, stream = logging.getLogger("tests.logs"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.Facts())
    handler.setFormatter(request.param())
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


logger = logging.getLogger("tests.logs")


class TestALine:
    def test_names_its_run_once(self, written: Callable[[], str]) -> None:
        logger.warning("it is late", extra={"run": uuid.UUID(RUN)})
        logger.warning("run %s is late", RUN, extra={"run": RUN})
        first, second = written().splitlines()
        assert first.count(RUN) == 1
        assert second.count(RUN) == (2 if second.startswith("{") else 1)

    def test_written_for_a_run_names_it_without_being_told(
        self, written: Callable[[], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class FakeTrace:
            run = RUN

        monkeypatch.setattr(logs, "current_trace", FakeTrace)
        logger.warning("a connection was refused")
        assert written().count(RUN) == 1

    def test_shows_no_known_secret(self, written: Callable[[], str]) -> None:
        redaction.add_secret("correct horse battery")
        try:
            raise ValueError("correct horse battery")
        except ValueError:
            logger.exception("it said: %s", "correct horse battery")
        assert "horse" not in written()
        assert "ValueError" in written()
        assert redaction.REDACTED in written()

    def test_shows_no_quotation_of_a_database(self, written: Callable[[], str]) -> None:
        refused = DataError(REFUSED)
        refused.__cause__ = psycopg.DataError(REFUSED)
        try:
            try:
                raise refused
            except DataError:
                raise LookupError("not stored\nat all") from refused
        except LookupError:
            logger.exception("it can't be written")
        said = written().replace("\\n", "\n")
        assert "a patient of 41" not in said
        assert said.count("unsupported Unicode escape sequence") == 2
        assert "psycopg.DataError" in said
        assert re.search(r"LookupError: not stored\n *at all", said), (
            "whole, if it is none of a database's"
        )

    @pytest.mark.postgres
    def test_shows_nothing_of_a_row_that_was_refused(
        self, written: Callable[[], str], transactional_db: None, alice: User
    ) -> None:
        run = make_run(alice)
        result = f"a patient of {41}"  # the traceback shows the line below
        try:
            RunRecord.objects.filter(pk=run.pk).update(status="success", result=result)
        except DatabaseError:
            logger.exception("it can't be written")
        assert "run_finished_at_iff_terminal" in written()
        assert "a patient of 41" not in written()


FORGED = "2026-11-29 13:32:05,000 ERROR django.security a break-in"
BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
ESCAPES = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x08" * 9,
    "\x7f",
    "\x00",
    "\u202e",
    "\u2066",
    "\u200f",
]


@pytest.mark.parametrize("evil", [*(f"{end}{FORGED}" for end in BREAKS), *ESCAPES], ids=ascii)
class TestTextOfOthers:
    """It makes no entry of its own, and commands no terminal."""

    def test_in_a_message(self, evil: str, written: Callable[[], str]) -> None:
        logger.warning("not found: %s", f"/{evil}")
        logger.warning(f"not found: /{evil}")
        self._check(written(), entries=2)

    def test_in_an_error(self, evil: str, written: Callable[[], str]) -> None:
        try:
            try:
                raise KeyError(evil)
            except KeyError as error:
                raise ValueError(f"it said {evil}") from error
        except ValueError:
            logger.exception("it failed")
        self._check(written(), entries=1)

    def test_in_the_name_of_a_run(self, evil: str, written: Callable[[], str]) -> None:
        logger.warning("it is late", extra={"run": evil}, stack_info=True)
        self._check(written(), entries=1)

    def _check(self, text: str, *, entries: int) -> None:
        assert text.endswith("\n")
        # What a program or a person takes for a line: as Python has it, the widest notion.
        lines = text.splitlines()
        assert len([line for line in lines if re.match(r"\d{4}-|\{", line)]) == entries
        assert not any(line.startswith(FORGED) for line in lines)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200f\u202e\u2066]", text)


def test_a_tab_and_letters_of_all_languages_stay(written: Callable[[], str]) -> None:
    logger.warning("a\tb é 漢字 שלום 🎉")
    assert "é" in written() or "\\u00e9" in written()
    if not written().startswith("{"):
        assert "a\tb é 漢字 שלום 🎉" in written()


@pytest.mark.parametrize("status", [400, 403, 404, 413, 500, None])
def test_only_failures_of_the_server_have_a_traceback(status: int | None) -> None:
    filter = logs.BadRequests()
    for name in ("django.request", "django.security.SuspiciousFileOperation", "runs.x"):
        record = logging.LogRecord(name, logging.ERROR, "", 0, "x", (), (None, None, None))
        record.status_code = status
        assert filter.filter(record)
        is_refusal = name != "runs.x" and status is not None and status < 500
        assert (record.exc_info is None) == is_refusal


def test_json_has_what_a_collector_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = uuid.uuid4()
    monkeypatch.setattr(logs, "_worker", str(worker))
    record = logging.makeLogRecord(
        {"name": "runs.x", "levelname": "WARNING", "msg": "two\nlines", "run": RUN}
        | {"request": object(), "color_message": "x"}
    )
    assert logs.Facts().filter(record)
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    data: dict[str, Any] = json.loads(line)
    assert datetime.fromisoformat(data.pop("time")).utcoffset() is not None
    assert data == {
        "level": "WARNING",
        "logger": "runs.x",
        "message": "two\nlines",
        "run": RUN,
        "worker": str(worker),
        "process": names.process_name(),
    }


class TestSeldom:
    """An outage must not fill the disk."""

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
        return now

    @pytest.fixture
    def pass_on(self, now: list[float]) -> Callable[..., str | None]:
        seldom = logs.Seldom()

        def pass_on(words: str, *args: object, name: str = "a") -> str | None:
            record = logging.LogRecord(name, logging.WARNING, "", 0, words, args, None)
            return record.getMessage() if seldom.filter(record) else None

        return pass_on

    def test_the_same_words_pass_once_a_minute_and_say_how_often_they_came(
        self, now: list[float], pass_on: Callable[..., str | None]
    ) -> None:
        assert pass_on("%s is away", "it") == "it is away"
        for _ in range(3):
            now[0] += 10
            assert pass_on("%s is away", "it") is None
        now[0] += 35
        assert pass_on("%s is away", "it") == "it is away (3 times more in 65 s)"
        now[0] += 61
        assert pass_on("%s is away", "it") == "it is away"

    def test_other_words_and_other_loggers_do_not_wait(
        self, pass_on: Callable[..., str | None]
    ) -> None:
        assert pass_on("%s is away", "it")
        assert pass_on("%s is away", "he")
        assert pass_on("%s is away", "it", name="b")

    def test_messages_that_never_repeat_are_not_remembered(
        self, pass_on: Callable[..., str | None]
    ) -> None:
        passed = [pass_on("%d", number) for number in range(1000)]
        assert None not in passed
        seldom = logs.Seldom()
        for number in range(1000):
            seldom.filter(logging.LogRecord("a", 30, "", 0, str(number), (), None))
        assert len(seldom._passed) <= logs._MOST_WORDS


@pytest.mark.slow
def test_every_line_of_a_process_is_json(tmp_path: Path) -> None:
    site = Installation(tmp_path, LOG_FORMAT="json", RUNS_DRAIN_SECONDS="1")
    with site.serving() as server:
        run = server.start("site-block", seconds=1.0)
        lines = eventually(lambda: [line for line in server.output.splitlines() if run in line])
        server.until(run, "success")
        server.terminate()
        assert server.process.wait(30) == 0
        said = [json.loads(x) for x in server.output.splitlines() if x.startswith("{")]
    blocked = json.loads(lines[0])
    assert (blocked["run"], blocked["logger"]) == (run, "runs.worker.watchdog")
    assert uuid.UUID(blocked["worker"])
    assert any("draining" in line["message"] for line in said)
    # The other lines are the greeting, for a person who starts the server by hand.
    assert all(
        line.startswith(("{", "Halting is at", "  ")) for line in server.output.splitlines()
    ), server.output


def test_a_refused_socket_is_no_error_of_the_application() -> None:
    """uvicorn takes an answer by HTTP for none."""

    def passes(words: str) -> bool:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, words, (), None)
        return logs.AnsweredHandshake().filter(record)

    assert "answered_handshake" in settings.LOGGING["loggers"]["uvicorn.error"]["filters"]
    assert not passes("ASGI callable returned without completing handshake.")
    assert passes("Exception in ASGI application\n")


def test_objects_of_one_kind_are_one_message() -> None:
    """psycopg_pool has a line for each connection that an outage has cut."""
    seldom = logs.Seldom()
    words = "discarding closed connection: <Connection [BAD] at %#x>"
    records = [
        logging.LogRecord("psycopg.pool", logging.WARNING, "", 0, words, (n,), None)
        for n in (7, 0xF00)
    ]
    assert [seldom.filter(record) for record in records] == [True, False]
