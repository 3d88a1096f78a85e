"""Three Ctrl-C, in a real terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents import SyncTools, agent
from runs.models import RunRecord
from tests.support.commands import TIMEOUT_SECONDS, Terminal
from tests.support.llm_server import LLMServer
from tests.support.server import eventually

CTRL_C = "\x03"
FIRST = "Stopping it: the calls in flight complete first. Ctrl-C again cuts them."
SECOND = "Ctrl-C again gives up on the run."
THIRD = "Giving up on it: the run ends now, whether its code ends or not."
SITE = "tests.support.site.settings"


def _only_run() -> RunRecord:
    return RunRecord.objects.get(parent=None)


@pytest.mark.parametrize("name", ["site-asleep", "site-asleep-in-def"])
def test_the_third_gives_up_on_code_that_sleeps_and_the_process_ends(
    name: str, demo: User, tmp_path: Path
) -> None:
    never = f"path={tmp_path / 'never'}"
    with Terminal("run_agent", name, "--input", never, DJANGO_SETTINGS_MODULE=SITE) as terminal:
        terminal.wait_for("asleep")
        terminal.press(CTRL_C)
        terminal.wait_for(FIRST)
        assert eventually(lambda: _only_run().stop_mode) == "graceful"
        terminal.press(CTRL_C)
        terminal.wait_for(SECOND)
        eventually(lambda: _only_run().stop_mode == "abort")
        terminal.press(CTRL_C)
        terminal.wait_for("This process ends now, and with it the code of the run.")
        code, out = terminal.end()
    assert (code, out) == (3, "")
    places = [terminal.screen.index(words) for words in (FIRST, SECOND, THIRD, "Given up at ")]
    assert places == sorted(places), "each is announced before it acts"
    run = _only_run()
    assert (run.status, run.stop_mode, run.stop_abandoned) == ("stopped", "abandon", True)
    assert (run.stop_via, run.stop_requested_by, run.stop_escalated_by) == ("cli", demo, demo)
    assert run.stop_left_behind
    assert all(one["ended_at"] for one in run.stop_left_behind), "it ended with the process"


def test_the_second_cuts_a_model_call(demo: User, llm_server: LLMServer) -> None:
    llm_server.hold("middle")
    model = {"LLM_BASE_URL": llm_server.base_url, "LLM_API_KEY": "none", "LLM_MODEL": "llama3"}
    with Terminal("run_agent", "summarise", "--input", "document=A letter.", **model) as terminal:
        llm_server.wait_for_requests(1)
        terminal.wait_for("summarise")
        terminal.press(CTRL_C)
        terminal.wait_for("Stopping... (after current LLM call completes) llama3")
        assert llm_server.aborted_count == 0
        terminal.press(CTRL_C)
        llm_server.wait(lambda: llm_server.aborted_count == 1, "the connection is closed")
        terminal.wait_for("Cut 1 call.")
        code, _ = terminal.end()
    assert code == 3
    assert SECOND in terminal.screen
    run = _only_run()
    assert (run.status, run.stop_mode, run.stop_calls_cut) == ("stopped", "abort", 1)


def test_a_remote_run_climbs_the_same_ladder_and_its_worker_lives_on(
    demo: User, hire: Callable[..., Any]
) -> None:
    wake = threading.Event()

    @agent("site-asleep-in-def")
    def asleep(tools: SyncTools, path: str) -> None:
        tools.log("asleep")
        wake.wait(TIMEOUT_SECONDS)

    hire()
    arguments = ("run_agent", "site-asleep-in-def", "--remote", "--input", "path=x")
    with Terminal(*arguments, DJANGO_SETTINGS_MODULE=SITE) as terminal:
        terminal.wait_for("asleep")
        for words in (FIRST, SECOND, THIRD):
            terminal.press(CTRL_C)
            terminal.wait_for(words)
        terminal.wait_for("Given up at ")
        code, _ = terminal.end()
    assert code == 3
    run = _only_run()
    assert (run.status, run.stop_abandoned) == ("stopped", True)
    assert [one["ended_at"] for one in run.stop_left_behind] == [None]
    wake.set()
    eventually(lambda: _only_run().stop_left_behind[0]["ended_at"], "its code has ended")
