"""A run may redirect what it prints, and take nothing from others by that."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from agents import output
from tests.support.agent_run import AgentRun, within
from tests.support.captured_output import SECONDS, captured, printed


@captured
def test_a_redirect_gets_what_its_run_prints(outside: dict[str, io.StringIO]) -> None:
    run, buffer = AgentRun(), io.StringIO()

    def work() -> None:
        with contextlib.redirect_stdout(buffer):
            print("in")
            sys.stdout.write("too\n")
            print("err", file=sys.stderr)
        print("out")

    run.call(work)
    assert buffer.getvalue() == "in\ntoo\n"
    assert printed(run) == ["out"]
    assert printed(run, "stderr") == ["err"]
    assert outside["stdout"].getvalue() == ""


@captured
async def test_overlapping_redirects_of_two_runs_do_not_touch_each_other_nor_a_third(
    outside: dict[str, io.StringIO],
) -> None:
    first, second, third = AgentRun(), AgentRun(), AgentRun()
    buffers = {"first": io.StringIO(), "second": io.StringIO()}
    entered, left = asyncio.Event(), asyncio.Event()

    async def outer() -> None:
        with contextlib.redirect_stdout(buffers["first"]):
            print("first")
            await entered.wait()
        print("first out")
        left.set()

    async def inner() -> None:
        with contextlib.redirect_stdout(buffers["second"]):
            entered.set()
            await left.wait()
            print("second")
        print("second out")

    async def bystander() -> None:
        for _ in range(5):
            print("third")
            await asyncio.sleep(0)
        await left.wait()

    await within(
        SECONDS,
        asyncio.gather(first.task(outer()), second.task(inner()), third.task(bystander())),
    )
    print("outside")
    assert buffers["first"].getvalue() == "first\n"
    assert buffers["second"].getvalue() == "second\n"
    assert printed(first) == ["first out"]
    assert printed(second) == ["second out"]
    assert printed(third) == ["third"] * 5
    assert outside["stdout"].getvalue() == "outside\n"


@captured
async def test_branches_of_one_run_may_redirect_at_once() -> None:
    run = AgentRun()

    async def branch(name: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as buffer:
            for _ in range(3):
                print(name)
                await asyncio.sleep(0)
        return buffer.getvalue()

    async def work() -> list[str]:
        return await asyncio.gather(branch("a"), branch("b"))

    assert await run.task(work()) == ["a\n" * 3, "b\n" * 3]
    assert printed(run) == []


@captured
async def test_a_redirect_reaches_threads_and_tasks_and_ends_there_too() -> None:
    run, buffer = AgentRun(), io.StringIO()
    may_go_on = asyncio.Event()

    async def later() -> None:
        print("task")
        await may_go_on.wait()
        print("after")

    async def work() -> None:
        with contextlib.redirect_stdout(buffer):
            task = asyncio.get_running_loop().create_task(later())
            await asyncio.to_thread(print, "thread")
            await asyncio.sleep(0)
        may_go_on.set()
        await task

    await run.task(work())
    assert sorted(buffer.getvalue().split()) == ["task", "thread"]
    assert printed(run) == ["after"]


@captured
def test_redirects_nest() -> None:
    run, outer, inner = AgentRun(), io.StringIO(), io.StringIO()

    def work() -> None:
        with contextlib.redirect_stdout(outer):
            print("1")
            with contextlib.redirect_stdout(inner):
                print("2")
            print("3")
        print("4")

    run.call(work)
    assert (outer.getvalue(), inner.getvalue(), printed(run)) == ("1\n3\n", "2\n", ["4"])


@captured
def test_a_stream_that_writes_to_the_one_before_is_no_endless_loop() -> None:
    class Tee:
        def __init__(self, before: Any) -> None:
            self.before = before

        def write(self, text: str) -> int:
            return int(self.before.write(text.upper()))

        def flush(self) -> None: ...

    run = AgentRun()

    def work() -> None:
        sys.stdout = Tee(sys.stdout)  # type: ignore[assignment]
        print("loud")

    run.call(work)
    assert printed(run) == ["LOUD"]
    other = AgentRun()
    other.call(print, "quiet")
    assert printed(other) == ["quiet"]


@captured
def test_a_redirect_to_a_stream_that_was_closed_is_over() -> None:
    run = AgentRun()

    def work() -> None:
        with io.StringIO() as buffer:
            sys.stdout = buffer
            print("in")
        print("out")

    run.call(work)
    assert printed(run) == ["out"]


@captured
def test_code_that_ends_its_redirect_with_the_streams_of_python_prints_into_its_log(
    outside: dict[str, io.StringIO],
) -> None:
    run, buffer = AgentRun(), io.StringIO()

    def work() -> None:
        sys.stdout = sys.stderr = buffer
        print("in")
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        print("out")
        print("err", file=sys.stderr)

    run.call(work)
    assert buffer.getvalue() == "in\n"
    assert (printed(run), printed(run, "stderr")) == (["out"], ["err"])


@captured
def test_a_run_may_print_nowhere() -> None:
    run = AgentRun()

    def work() -> None:
        sys.stdout = None  # type: ignore[assignment]
        print("nowhere", flush=True)

    run.call(work)
    assert printed(run) == []


@captured
def test_a_mock_in_the_place_of_stdout_is_the_runs_own(outside: dict[str, io.StringIO]) -> None:
    run = AgentRun()

    def work() -> str:
        with mock.patch("sys.stdout", new_callable=io.StringIO) as stdout:
            print("in")
            caught = stdout.getvalue()
        print("out")
        return caught

    assert run.call(work) == "in\n"
    assert printed(run) == ["out"]
    print("outside")
    assert outside["stdout"].getvalue() == "outside\n"


def _close_buffer() -> None:
    sys.stdout.buffer.close()


def _detach() -> None:
    with contextlib.suppress(io.UnsupportedOperation):
        sys.stdout.detach()  # type: ignore[union-attr]


def _reconfigure() -> None:
    sys.stdout.reconfigure(encoding="ascii", errors="strict")  # type: ignore[union-attr]


@pytest.mark.parametrize("harm", [lambda: sys.stdout.close(), _close_buffer, _detach, _reconfigure])
def test_a_run_cant_close_or_change_the_stream_of_the_process(harm: Callable[[], Any]) -> None:
    raw = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf-8", write_through=True))
        output.install()
        try:
            run, other = AgentRun(), AgentRun()
            run.call(harm)
            run.call(print, "still")
            other.call(print, "here")
            print("outside ☃")
        finally:
            output.uninstall()
        assert raw.getvalue().decode() == "outside ☃\n"
    assert printed(run) == ["still"]
    assert printed(other) == ["here"]


@captured
def test_bytes_that_are_printed_are_in_the_log() -> None:
    run = AgentRun()
    run.call(lambda: sys.stdout.buffer.write("snow ☃\n".encode()))
    assert printed(run) == ["snow ☃"]


@captured
def test_code_outside_of_runs_may_redirect_and_takes_nothing_from_runs(
    outside: dict[str, io.StringIO],
) -> None:
    run, buffer, inner = AgentRun(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(buffer):
        print("host")
        run.call(print, "run")
        with contextlib.redirect_stdout(inner):
            print("inner")
        print("host again")
    print("outside")
    assert buffer.getvalue() == "host\nhost again\n"
    assert inner.getvalue() == "inner\n"
    assert outside["stdout"].getvalue() == "outside\n"
    assert printed(run) == ["run"]


def test_a_process_that_captures_is_as_it_was_afterwards() -> None:
    program = (
        "import sys, types\n"
        "from agents import output\n"
        "before = sys.stdout, sys.stderr\n"
        "output.install()\n"
        "assert sys.stdout is not before[0]\n"
        "output.uninstall()\n"
        "assert (sys.stdout, sys.stderr) == before and type(sys) is types.ModuleType\n"
        "assert vars(sys)['stdout'] is before[0]\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
