"""Install and uninstall."""

from __future__ import annotations

import functools
import gc
import io
import logging
import sys

import pytest

from agents import output
from tests.support.agent_run import AgentRun
from tests.support.captured_output import printed


def test_as_many_uninstalls_as_installs_give_the_streams_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_out, before_err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", before_out)
    monkeypatch.setattr(sys, "stderr", before_err)
    handlers = list(logging.getLogger().handlers)
    count = output._install_count
    output.install()
    installed = sys.stdout
    output.install()
    assert sys.stdout is installed
    output.uninstall()
    assert sys.stdout is installed
    assert output._install_count == count + 1
    output.uninstall()
    assert (sys.stdout, sys.stderr) == (before_out, before_err)
    assert logging.getLogger().handlers == handlers
    assert output._install_count == count
    output.uninstall()  # one too many is no error
    assert sys.stdout is before_out


def test_a_stream_that_other_code_has_put_there_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        output.install()
        sys.stdout = theirs
        output.uninstall()
        assert sys.stdout is theirs


def test_capsys_sees_what_is_printed_outside_of_runs_and_not_what_is_printed_inside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.install()
    try:
        run = AgentRun()
        print("outside")
        run.call(print, "inside")
        print("error", file=sys.stderr)
    finally:
        output.uninstall()
    assert capsys.readouterr() == ("outside\n", "error\n")
    assert printed(run) == ["inside"]
    with capsys.disabled():
        pass


def test_a_stream_that_was_closed_meanwhile_does_no_harm_at_the_end(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    original = io.StringIO()
    monkeypatch.setattr(sys, "stdout", original)
    output.install()
    original.close()
    output.uninstall()
    gc.collect()
    assert list(recwarn) == []


def test_a_second_capture_finds_clean_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    output.install()
    first = AgentRun()
    first.call(functools.partial(print, "unfinished", end=""))
    output.uninstall()
    output.install()
    second = AgentRun()
    second.call(print, "mine")
    output.uninstall()
    assert printed(second) == ["mine"]
    assert printed(first) == ["unfinished"]
