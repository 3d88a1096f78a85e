"""Logging."""

from __future__ import annotations

import io
import logging
import threading
from typing import Any

import pytest

from agents import output
from agents.values import redaction
from tests.support.agent_run import AgentRun
from tests.support.captured_output import SECONDS, SECRET, Hostile, captured, logger


@captured
@pytest.mark.usefixtures("root_at_info")
def test_what_an_agent_logs_is_in_its_log() -> None:
    run = AgentRun()
    run.call(logger.info, "%d pages", 3)
    run.call(logger.debug, "not that")
    assert run.only("log") == {"level": "info", "logger": "an.agent", "message": "3 pages"}


@captured
@pytest.mark.usefixtures("root_at_info")
def test_a_logged_exception_brings_its_traceback() -> None:
    run = AgentRun()

    def work() -> None:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logger.exception("it failed")

    run.call(work)
    data = run.only("log")
    assert (data["level"], data["message"]) == ("error", "it failed")
    assert "ZeroDivisionError" in data["traceback"]


@captured
@pytest.mark.usefixtures("root_at_info")
def test_what_is_logged_outside_any_run_is_in_no_runs_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = AgentRun()
    logger.info("outside")
    assert run.sink.events == []
    assert "outside" in caplog.text


@captured
@pytest.mark.usefixtures("root_at_info")
def test_warnings_outside_any_run_are_printed_where_no_handler_is_set_up(
    outside: dict[str, io.StringIO],
) -> None:
    """Python prints them then, in a fresh Django site, say; ours is a handler, too."""
    root = logging.getLogger()
    handlers = [one for one in root.handlers if type(one).__module__.startswith("agents.")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "handlers", handlers)
        logger.warning("a heartbeat failed")
        logger.info("of no interest")
        AgentRun().call(logger.warning, "in a run")
        assert outside["stderr"].getvalue() == "a heartbeat failed\n"
        patch.setattr(root, "handlers", [*handlers, logging.NullHandler()])
        logger.warning("for the site's own handler")
        assert outside["stderr"].getvalue() == "a heartbeat failed\n"


@captured
@pytest.mark.usefixtures("root_at_info")
def test_libraries_that_log_every_request_are_heard_only_when_they_warn() -> None:
    run = AgentRun()
    library = logging.getLogger("httpcore.connection")
    before = library.level
    library.setLevel(logging.DEBUG)
    try:
        run.call(library.info, "connect_tcp.started")
        run.call(library.warning, "odd")
    finally:
        library.setLevel(before)
    assert run.only("log")["message"] == "odd"


@captured
@pytest.mark.usefixtures("root_at_info")
@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("%d pages", ("three",)),
        ("%s", (Hostile(ValueError("no")),)),
        (Hostile(ValueError("no")), ()),
        ("%s %s", ("one",)),
        ({"not": "text"}, ()),
    ],
)
def test_a_record_that_cant_be_formatted_never_breaks_the_agent(
    message: Any, arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = AgentRun()
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of the other handlers: pytest's
    alone = logging.Logger("alone")
    assert output._handler is not None
    alone.addHandler(output._handler)
    run.call(alone.warning, message, *arguments)
    assert run.only("log")["level"] == "warning"


@captured
def test_runs_do_not_wait_for_each_other_to_log() -> None:
    """With a lock for all, one that logs and one whose trace is written could wait for ever."""
    slow, quick = AgentRun(), AgentRun()
    writing, may_end = threading.Event(), threading.Event()

    class Slow:
        def __repr__(self) -> str:
            writing.set()
            assert may_end.wait(SECONDS)
            return "slow"

    alone = logging.Logger("alone")
    assert output._handler is not None
    alone.addHandler(output._handler)
    thread = threading.Thread(target=slow.call, args=(alone.warning, Slow()), daemon=True)
    thread.start()
    assert writing.wait(SECONDS)
    other = threading.Thread(target=quick.call, args=(alone.warning, "quick"), daemon=True)
    other.start()
    other.join(SECONDS / 4)
    try:
        assert quick.events("log"), "it waits for the other run"
    finally:
        may_end.set()
        thread.join(SECONDS)
        other.join(SECONDS)


@captured
@pytest.mark.usefixtures("root_at_info")
def test_secrets_are_taken_out_of_what_is_printed_and_logged() -> None:
    redaction.add_secret(SECRET)
    run = AgentRun()

    def work() -> None:
        print("key:", SECRET[:10], end="")
        print(SECRET[10:])  # in two pieces
        print(f"unfinished {SECRET}", end="")
        logger.warning("with %s", SECRET)
        try:
            raise ValueError(SECRET)
        except ValueError:
            logger.exception("failed")

    try:
        run.call(work)
        output.flush(run.trace)
    finally:
        redaction.forget_secrets()
    assert len(run.sink.events) == 4
    assert SECRET not in str(run.sink.events)
    assert "key: [redacted]" in str(run.sink.events)


@captured
@pytest.mark.usefixtures("root_at_info")
def test_a_run_that_sets_the_levels_of_all_handlers_takes_no_lines_from_others() -> None:
    run, other = AgentRun(), AgentRun()
    before = {handler: handler.level for handler in logging.getLogger().handlers}

    def silence() -> None:
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.CRITICAL)

    try:
        run.call(silence)
        other.call(logger.info, "heard")
    finally:
        for handler, level in before.items():
            handler.setLevel(level)
    assert other.only("log")["message"] == "heard"
