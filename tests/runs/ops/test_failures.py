"""A run whose agent fails is one line in the log, without values and secrets."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents import AgentError, Tools, agent
from agents.values import redaction
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.ops import failures
from runs.ops.failures import MOST_CAUSES, MOST_FRAMES, log_failure, without_values
from runs.signals import receivers
from runs.worker.worker import Worker
from tests.support.journal import Journal, eventually
from tests.support.rows import make_run
from tests.support.running import Gate

Start = Callable[..., RunRecord]

SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def secret() -> Iterator[None]:
    kept = redaction._secrets
    redaction.add_secret(SECRET)
    yield
    redaction._secrets = kept


@pytest.fixture
def failing() -> None:
    @agent("failing")
    async def failing(tools: Tools, document: str = "") -> None:
        shouted = document.upper()
        raise ValueError(f"no: {len(shouted)}, {SECRET}")


def _lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged of failures, once nothing is left to log."""
    eventually(lambda: not local_runs.all_runs(), "the worker has no run")
    receivers._thread.submit(bool).result(10)
    return [record for record in caplog.records if record.name == failures.logger.name]


@pytest.mark.usefixtures("worker", "failing")
class TestARun:
    def test_that_fails_is_logged_once(
        self, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = log.over(start("failing", document="the prompt"))

        assert run.status == "error"
        [line] = _lines(caplog)
        assert line.levelno == logging.ERROR
        assert line.getMessage() == f"run {run.pk} of the agent failing failed"
        assert (line.__dict__["run"], line.__dict__["agent"]) == (str(run.pk), "failing")
        assert line.exc_info
        text = "".join(traceback.format_exception(line.exc_info[1]))
        assert "in failing\n    raise ValueError(" in text
        assert "ValueError: no: 10, [redacted]" in text
        assert SECRET not in text
        assert "the prompt" not in text

    def test_keeps_no_variables_of_the_agent(
        self, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        log.over(start("failing", document="the prompt"))

        [line] = _lines(caplog)
        assert line.exc_info
        frames = [frame for frame, _ in traceback.walk_tb(line.exc_info[2])]
        assert "failing" in {frame.f_code.co_name for frame in frames}
        assert [frame.f_locals for frame in frames] == [{}] * len(frames)

    def test_that_refuses_on_purpose_is_logged_too(
        self, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @agent("refusing")
        def refusing(tools: Any) -> None:
            raise AgentError("not today")

        run = log.over(start("refusing"))

        assert [line.__dict__["run"] for line in _lines(caplog)] == [str(run.pk)]

    def test_that_returns_what_it_must_not_is_logged(
        self, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @agent("wrong")
        async def wrong(tools: Tools) -> int:
            return "a text"  # type: ignore[return-value]

        run = log.over(start("wrong"))

        [line] = _lines(caplog)
        assert line.__dict__["run"] == str(run.pk)
        assert line.exc_info
        assert line.exc_info[0].__name__ == "InvalidOutput"  # type: ignore[union-attr]

    def test_whose_input_fits_no_longer_is_logged(
        self, alice: User, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @agent("changed")
        async def changed(tools: Tools, document: str) -> None: ...

        run = log.over(make_run(alice, agent="changed"))  # its input is empty

        assert run.error["code"] == "invalid_input"
        assert [line.__dict__["run"] for line in _lines(caplog)] == [str(run.pk)]

    def test_that_is_stopped_is_not_logged(
        self, start: Start, stop: Any, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @agent("untidy")
        async def untidy(tools: Tools) -> None:
            tools.log("at work")
            try:
                while True:
                    await tools.data_store.get("x")
                    await asyncio.sleep(0.001)
            finally:
                raise ValueError("while cleaning up")

        run = start("untidy")
        log.until_at_work(1)
        stop(run)

        assert log.over(run).status == "stopped"
        assert not _lines(caplog)

    def test_that_fails_after_it_was_abandoned_is_not_logged(
        self, start: Start, stop: Any, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate()

        @agent("stuck")
        def stuck(tools: Any) -> None:
            gate.wait_here()
            raise ValueError("too late")

        run = start("stuck")
        gate.until_arrived()
        stop(run, mode="abandon")
        gate.open()

        assert log.over(run).status == "stopped"
        assert not _lines(caplog)

    def test_whose_caller_handles_its_error_is_logged_alone(
        self, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @agent("patient")
        async def patient(tools: Tools) -> str:
            try:
                await tools.agents.call("failing", {})
            except AgentError:
                return "all the same"
            return ""

        run = log.over(start("patient"))

        assert run.status == "success"
        [line] = _lines(caplog)
        assert line.__dict__["run"] == str(RunRecord.objects.get(parent=run).pk)

    def test_that_passes_on_the_error_of_its_child_is_logged_with_it(
        self, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @agent("passing")
        async def passing(tools: Tools) -> None:
            await tools.agents.call("failing", {})

        run = log.over(start("passing"))

        child = RunRecord.objects.get(parent=run)
        assert [line.__dict__["run"] for line in _lines(caplog)] == [str(child.pk), str(run.pk)]


class TestACopy:
    def test_has_the_causes_and_the_parts_of_a_group(self) -> None:
        def parts() -> None:
            raise ExceptionGroup("some", [KeyError(SECRET), ValueError("b")])

        try:
            try:
                parts()
            except ExceptionGroup as group:
                raise RuntimeError("outer") from group
        except RuntimeError as error:
            text = "".join(traceback.format_exception(without_values(error)))

        assert "RuntimeError: outer" in text
        assert "direct cause" in text
        assert "in parts\n" in text
        assert "KeyError: '[redacted]'" in text
        assert "ValueError: b" in text
        assert SECRET not in text

    def test_has_no_context_that_was_suppressed(self) -> None:
        try:
            try:
                raise KeyError("inner")
            except KeyError:
                raise RuntimeError("outer") from None
        except RuntimeError as error:
            text = "".join(traceback.format_exception(without_values(error)))

        assert "inner" not in text

    def test_is_bounded(self) -> None:
        def deeper(n: int) -> None:
            if not n:
                raise ValueError("x" * 100_000)
            deeper(n - 1)

        error: BaseException
        try:
            deeper(200)
        except ValueError as raised:
            error = raised
        for _ in range(100):
            error, cause = RuntimeError("again"), error
            error.__cause__ = cause
        copied: BaseException | None = without_values(error)
        count = 0
        while copied is not None:
            count += 1
            copied = copied.__cause__
        assert count == MOST_CAUSES + 1

        copied = without_values(cause_of(error))
        assert len(list(traceback.walk_tb(copied.__traceback__))) == MOST_FRAMES
        assert len(str(copied)) < 5_000

    def test_of_a_hostile_exception_is_made(self) -> None:
        class Hostile(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        text = "".join(traceback.format_exception(without_values(Hostile())))

        assert "Hostile" in text


def cause_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.mark.usefixtures("failing")
def test_sentry_gets_the_run_and_no_values(
    worker: Worker, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    sentry_sdk = pytest.importorskip("sentry_sdk")
    integration = pytest.importorskip("sentry_sdk.integrations.logging")
    events: list[dict[str, Any]] = []

    class Transport(sentry_sdk.transport.Transport):  # type: ignore[misc, name-defined]
        def capture_envelope(self, envelope: Any) -> None:
            if event := envelope.get_event():
                events.append(event)

    client = sentry_sdk.Client(
        dsn="http://key@127.0.0.1/1",
        transport=Transport,
        default_integrations=False,
        integrations=[integration.LoggingIntegration()],
    )
    sentry_sdk.get_global_scope().set_client(client)
    try:
        run = log.over(start("failing", document="the prompt"))
        assert _lines(caplog)
    finally:
        sentry_sdk.get_global_scope().set_client(None)
        client.close()

    [event] = events
    assert (event["level"], event["logger"]) == ("error", failures.logger.name)
    assert (event["extra"]["run"], event["extra"]["agent"]) == (str(run.pk), "failing")
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "no: 10, [redacted]")
    last = error["stacktrace"]["frames"][-1]
    assert (last["function"].rpartition(".")[2], last["vars"]) == ("failing", {})
    assert last["context_line"].strip().startswith("raise ValueError(")
    assert "the prompt" not in repr(events)
    assert SECRET not in repr(events)


def test_a_failure_without_a_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    run = RunRecord().pk
    log_failure(run, "x", without_values(ValueError("never raised")))
    [line] = _lines(caplog)
    assert "ValueError: never raised" in logging.Formatter().format(line)
