"""`manage.py run_agent`: in this process where that will do, else as a real one, with signals."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import OperationalError

from agents import SyncTools, Tools, agent, should_stop
from runs.actions import stopping
from runs.models import RunRecord
from tests.support.commands import TIMEOUT_SECONDS, Terminal, run_agent
from tests.support.consistency import assert_consistent

SENTENCE = "In {n} the ship number {n} left harbour {n} at dawn, and {n} people saw her sail. "


# --- In this process -----------------------------------------------------------------------------


class Ran:
    """How a command in this process has ended."""

    def __init__(self, *arguments: str, err: io.StringIO | None = None, **options: Any) -> None:
        out, err = io.StringIO(), err or io.StringIO()
        self.code = 0
        self.refusal = ""
        options = {"user": "demo", **options}
        try:
            call_command("run_agent", *arguments, stdout=out, stderr=err, **options)
        except SystemExit as end:
            self.code = int(str(end.code))
        except CommandError as error:
            self.code, self.refusal = error.returncode, str(error)
        self.out, self.err = out.getvalue(), err.getvalue()


def _only_run() -> RunRecord:
    return RunRecord.objects.get(parent=None)


def test_a_deadline_stops_it(demo: User) -> None:
    @agent("endless", deadline_seconds=60)
    async def endless(tools: Tools) -> None:
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.005)

    ran = Ran("endless", "--deadline", "0.5")
    assert ran.code == 3
    assert "It reached its deadline of 0.5 s." in ran.err
    assert_consistent(_only_run())


@pytest.mark.parametrize(
    ("deadline", "refusal"), [("61", "At most 60 s"), ("0", "above 0"), ("-1", "above 0")]
)
def test_a_deadline_that_is_not_allowed_is_refused(demo: User, deadline: str, refusal: str) -> None:
    @agent("limited", deadline_seconds=60)
    async def limited(tools: Tools) -> None: ...

    ran = Ran("limited", f"--deadline={deadline}")
    assert ran.code == 2
    assert refusal in ran.refusal
    assert not RunRecord.objects.exists()


def test_the_result_goes_to_stdout_and_the_log_to_stderr(demo: User) -> None:
    @agent("polite")
    async def polite(tools: Tools, name: str) -> str:
        print("somebody is there")
        tools.log("looking up")
        await tools.data_store.set("guest", name)
        return f"Hello {name}\x1b"

    ran = Ran("polite", "--input", "name=Ann")
    assert (ran.code, ran.out) == (0, "Hello Ann\x1b\n")  # a pipe gets it as it is
    for words in (
        "▸ polite",
        "> somebody is there",
        "looking up",
        "stored default/guest",
        "✓ Done",
    ):
        assert words in ran.err
    run = assert_consistent(_only_run())
    assert run.owner == demo
    assert str(run.pk) in ran.err


def test_a_result_that_is_no_text_is_json(demo: User) -> None:
    @agent("structured")
    async def structured(tools: Tools) -> dict[str, Any]:
        return {"ü": [1, None]}

    assert json.loads(Ran("structured").out) == {"ü": [1, None]}


def test_an_error_exits_with_1_and_says_which(demo: User) -> None:
    @agent("failing")
    async def failing(tools: Tools) -> str:
        raise ValueError("no luck")

    ran = Ran("failing")
    assert (ran.code, ran.out) == (1, "")
    assert "✗ Error" in ran.err
    assert "no luck (unhandled_exception)" in ran.err


def test_children_are_shown_below_their_caller(demo: User) -> None:
    @agent("child")
    async def child(tools: Tools) -> str:
        tools.log("from below")
        return "done"

    @agent("caller")
    async def caller(tools: Tools) -> str:
        return str(await tools.agents.call("child"))

    ran = Ran("caller")
    assert ran.out == "done\n"
    lines = [line[10:] for line in ran.err.splitlines()]
    assert "  ▸ child" in lines
    assert "    from below" in lines
    assert "  sub-agent child Done" in "\n".join(lines)
    assert_consistent(_only_run())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], 'no agent "nobody"'),
        (["taker", "--input", "n=x", "--input", "more=1"], "input.n: 'x' is not a whole number."),
        (["taker", "--input", "n=x", "--input", "more=1"], "input.more: There is no such field."),
        (["taker"], "input.n: This field is required."),
        (["taker", "--input", "n=true"], "input.n: "),
        (["taker", "--input-json", "[1]"], "input: An object"),
        (["taker", "--input-json", "{"], "input: It is not JSON"),
        (["taker", "--input", "n=1", "--user", "nobody"], 'There is no user "nobody".'),
        (["taker", "--input", "n=1", "--user", "gone"], 'The user "gone" is not active.'),
    ],
)
def test_what_can_not_be_run_exits_with_2_and_leaves_nothing(
    arguments: list[str], words: str, demo: User
) -> None:
    User.objects.create_user("gone", is_active=False)

    @agent("taker")
    async def taker(tools: Tools, n: int) -> int:
        return n

    ran = Ran(*arguments) if "--user" not in arguments else Ran(*arguments[:-2], user=arguments[-1])
    assert ran.code == 2
    assert words in ran.refusal
    assert not RunRecord.objects.exists()


def test_outside_debug_somebody_must_be_named(demo: User) -> None:
    assert "--user" in Ran("count_words", user=None).refusal


def test_an_input_that_is_too_large_exits_with_2(demo: User, options: Any) -> None:
    @agent("taker")
    async def taker(tools: Tools, text: str) -> str:
        return text

    options(MAX_INPUT_BYTES=10)
    ran = Ran("taker", "--input", "text=" + "x" * 20)
    assert ran.code == 2
    assert "10 is the limit" in ran.refusal


def test_remote_queues_it_and_follows_it(demo: User, hire: Callable[..., Any]) -> None:
    @agent("child")
    async def child(tools: Tools) -> str:
        tools.log("from below")
        return "done"

    @agent("caller")
    async def caller(tools: Tools) -> str:
        tools.progress(1, 2, "half way")
        return str(await tools.agents.call("child"))

    worker = hire()
    ran = Ran("caller", "--remote")
    assert (ran.code, ran.out) == (0, "done\n")
    for words in ("Queued as run", "▸ caller", "1 of 2 half way", "  ▸ child", "from below"):
        assert words in ran.err
    assert ran.err.index("from below") < ran.err.index("sub-agent child Done")
    assert assert_consistent(_only_run()).worker_id == worker.id


def test_a_run_that_is_deleted_meanwhile_is_told_so(demo: User, hire: Callable[..., Any]) -> None:
    @agent("doomed")
    def doomed(tools: SyncTools) -> None:
        RunRecord.objects.filter(parent=None).delete()

    hire()
    ran = Ran("doomed", "--remote")
    assert ran.code == 1
    assert "was deleted" in ran.refusal


def test_remote_takes_a_priority(demo: User, hire: Callable[..., Any]) -> None:
    @agent("plain")
    async def plain(tools: Tools) -> None: ...

    ran = Ran("plain", "--remote", "--priority", "1")
    assert (ran.code, ran.refusal) == (2, "You may not start runs of a priority above 0.")
    ran = Ran("plain", "--remote", "--priority", "-101")
    assert ran.code == 2
    assert "-100 to 100" in ran.refusal
    ran = Ran("plain", "--priority", "-1")
    assert ran.code == 2
    assert "--remote" in ran.refusal
    assert not RunRecord.objects.exists()
    hire()
    assert Ran("plain", "--remote", "--priority", "-3").code == 0
    assert _only_run().priority == -3


def test_a_stop_that_can_not_be_written_is_told_and_asked_for_again(
    demo: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_stop = stopping.request_stop
    told = threading.Event()

    def fail_once(*args: Any, **options: Any) -> stopping.StopResult:
        monkeypatch.setattr(stopping, "request_stop", request_stop)
        told.set()
        raise OperationalError("the disk is full.")

    @agent("pressing")
    def pressing(tools: SyncTools) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        assert told.wait(TIMEOUT_SECONDS)
        while True:  # the message may take a moment, and a press before it is the second
            tools.data_store.get("a")
            if "tries again" in err.getvalue():
                os.kill(os.getpid(), signal.SIGINT)
                break
        while not should_stop():
            time.sleep(0.001)
        return "so far"

    err = io.StringIO()
    monkeypatch.setattr(stopping, "request_stop", fail_once)
    ran = Ran("pressing", err=err)
    assert (ran.code, ran.out) == (3, "so far\n")
    assert "It could not be asked to stop: the disk is full. Ctrl-C tries again." in ran.err
    assert assert_consistent(_only_run()).status == "stopped"


def test_the_signals_and_the_log_are_as_before_afterwards(demo: User) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    handlers = set(logging.getLogger().handlers)
    Ran("count_words", "--input", "text=a")
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert (after, set(logging.getLogger().handlers)) == (before, handlers)


# --- Real processes ------------------------------------------------------------------------------


@pytest.fixture
def document(tmp_path: Path) -> str:
    """Return the argument for a document of more than 100 kB."""
    path = tmp_path / "document.txt"
    path.write_text("\n\n".join(SENTENCE.format(n=n) for n in range(1500)))
    assert path.stat().st_size > 100_000
    return f"document=@{path}"


def test_ctrl_c_stops_it_after_the_call_in_flight(demo: User, document: str) -> None:
    with run_agent("summarise", "--input", document) as process:
        process.wait_for("│ ")  # a model is writing
        process.send(signal.SIGINT)
        process.wait_for("Stopping... (after current LLM call completes)")
        code, out = process.end()
    assert code == 3
    run = assert_consistent(_only_run())
    assert run.status == "stopped"
    assert (run.stop_via, run.stop_requested_by) == ("cli", demo)
    assert run.stop_calls_started_after_acknowledgement == 0
    assert run.llm_calls >= 1
    # What it had so far is the one thing on stdout, and the receipt explains it.
    assert out == f"{run.partial_result}\n"
    assert out.startswith(f"Notes on {run.llm_calls} of ")
    assert "■ Stopped in " in process.err
    assert "Stopped by demo from the command line at " in process.err
    assert "after the LLM call in flight had completed. " in process.err.replace("\n", " ")
    assert "Nothing was started after that." in process.err


def test_sigterm_drains_and_is_nobodys_stop(demo: User, document: str) -> None:
    with run_agent("summarise", "--input", document, RUNS_DRAIN_SECONDS="0") as process:
        process.wait_for("│ ")
        process.send(signal.SIGTERM)
        code, out = process.end()
    assert (code, out) == (1, "")
    assert "requeued" in process.err
    assert "Stopping..." not in process.err
    run = _only_run()
    assert (run.status, run.stop_requested, run.attempt) == ("queued", False, 1)


def test_ctrl_c_stops_a_remote_run_too(demo: User, document: str, hire: Callable[..., Any]) -> None:
    hire()
    with run_agent("summarise", "--remote", "--input", document) as process:
        process.wait_for("0 of ")
        process.send(signal.SIGINT)
        process.wait_for("Stopping... (after current LLM call completes)")
        code, out = process.end()
    assert code == 3
    run = assert_consistent(_only_run())
    assert (run.status, run.stop_via, run.stop_requested_by) == ("stopped", "cli", demo)
    assert out == f"{run.partial_result}\n"


def test_a_remote_run_without_a_worker_says_so_and_is_stopped_at_once(demo: User) -> None:
    with run_agent("count_words", "--remote", "--input", "text=a") as process:
        process.wait_for("none is there")
        process.send(signal.SIGINT)
        code, out = process.end()
    assert (code, out) == (3, "")
    assert "It had not started." in process.err
    assert assert_consistent(_only_run()).status == "stopped"


def test_on_a_terminal_it_prints_plain_lines_with_colours(demo: User, document: str) -> None:
    with Terminal("run_agent", "summarise", "--input", document) as terminal:
        terminal.wait_for("│ ")  # the model's text, as it comes
        terminal.press("\x03")
        terminal.wait_for("Stopped by demo")
        assert "Stopping... (after current LLM call completes) stand-in, " in terminal.screen
        code, out = terminal.end()
    assert code == 3
    assert out.startswith("Notes on ")
    assert "\x1b" not in terminal.screen, "nothing but colours"
