"""One run."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agents import output
from tests.support.agent_run import AgentRun
from tests.support.captured_output import Hostile, captured, printed


@captured
def test_what_an_agent_prints_is_in_its_log_and_nowhere_else(
    outside: dict[str, io.StringIO],
) -> None:
    run = AgentRun()
    run.call(print, "hello", "world")
    assert run.sink.events[0].source == "agent"
    assert run.events("stdout") == [{"stream": "stdout", "text": "hello world"}]
    assert outside["stdout"].getvalue() == ""


@captured
def test_outside_any_run_text_goes_where_it_went_before(outside: dict[str, io.StringIO]) -> None:
    run = AgentRun()
    print("out")
    print("err", file=sys.stderr)
    sys.stdout.writelines(["a\n", "b\n"])
    sys.stdout.flush()
    assert outside["stdout"].getvalue() == "out\na\nb\n"
    assert outside["stderr"].getvalue() == "err\n"
    assert run.sink.events == []


@pytest.mark.parametrize(
    ("write", "lines"),
    [
        (lambda: print("a\nb"), ["a", "b"]),
        (lambda: print(), [""]),
        (lambda: print("a", end=""), ["a"]),
        (lambda: (print("a", end=""), print("b", end="\n\n")), ["ab", ""]),
        (lambda: (print("a", end="", flush=True), print("b", flush=True)), ["ab"]),
        (lambda: sys.stdout.write("a\nb"), ["a", "b"]),
        (lambda: sys.stdout.writelines(["a", "b\n", "c"]), ["ab", "c"]),
        (lambda: (sys.stdout.write(""), print("", end="")), []),
        (lambda: print("ä\u2028ß\r\n☃"), ["ä\u2028ß\r", "☃"]),
        (lambda: print("\x00\ud800"), ["\ufffd\ufffd"]),
    ],
)
@captured
def test_lines_are_kept_as_they_were_printed(
    outside: dict[str, io.StringIO], write: Callable[[], Any], lines: list[str]
) -> None:
    run = AgentRun()
    run.call(write)
    assert printed(run) == lines


@captured
def test_the_two_streams_are_told_apart(outside: dict[str, io.StringIO]) -> None:
    run = AgentRun()

    def write() -> None:
        print("out ", end="")
        print("err ", end="", file=sys.stderr)
        print("more out")
        sys.stderr.write("more err\n")

    run.call(write)
    assert printed(run) == ["out more out"]
    assert printed(run, "stderr") == ["err more err"]
    assert {stream.getvalue() for stream in outside.values()} == {""}


@captured
def test_an_unfinished_line_that_grows_too_long_is_not_kept_back(
    outside: dict[str, io.StringIO],
) -> None:
    run = AgentRun()

    def write() -> None:
        for _ in range(output.MAX_PENDING + 1):
            print("x", end="")

    run.call(write)
    assert run.only("stdout")["text"] == "x" * (output.MAX_PENDING + 1)
    assert printed(run) == ["x" * (output.MAX_PENDING + 1)]


@captured
def test_write_takes_text_only_as_any_text_stream_does(outside: dict[str, io.StringIO]) -> None:
    run = AgentRun()
    with pytest.raises(TypeError, match="must be str"):
        run.call(sys.stdout.write, b"bytes")  # type: ignore[arg-type]
    assert run.call(sys.stdout.write, "four") == 4


@captured
def test_the_streams_can_do_what_the_originals_can(
    outside: dict[str, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sys.stdout.writable()
    assert not sys.stdout.isatty()
    assert sys.stdout.encoding == outside["stdout"].encoding
    assert sys.stdout.errors == outside["stdout"].errors
    assert sys.stdout.getvalue() == ""  # type: ignore[attr-defined]
    with pytest.raises(io.UnsupportedOperation):
        sys.stdout.fileno()
    with pytest.raises(AttributeError):
        sys.stdout.no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    monkeypatch.setattr(outside["stdout"], "isatty", lambda: True)
    assert sys.stdout.isatty()
    assert AgentRun().call(sys.stdout.isatty) is False, "an agent has no terminal"


@captured
def test_after_the_end_of_a_run_its_text_goes_outside(outside: dict[str, io.StringIO]) -> None:
    run = AgentRun()
    run.trace.close()
    run.call(print, "late")
    assert outside["stdout"].getvalue() == "late\n"
    assert run.sink.events == []


@captured
def test_an_object_that_cant_be_printed_harms_no_other_run(
    outside: dict[str, io.StringIO],
) -> None:
    run = AgentRun()
    with pytest.raises(ValueError, match="no"):
        run.call(print, "before", Hostile(ValueError("no")))
    run.call(print, "after")
    assert "".join(printed(run)).endswith("after")
