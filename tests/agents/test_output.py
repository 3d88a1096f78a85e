"""What agents print and log: each line in the log of its own run, none lost, none mixed."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agents import output
from agents.values import redaction
from tests.support.agent_run import AgentRun, within

SECONDS = 20.0
SECRET = "correct-horse-battery-staple"
logger = logging.getLogger("an.agent")


@pytest.fixture
def outside() -> dict[str, io.StringIO]:
    """Give the streams that are there before output is captured; see ``captured``."""
    return {"stdout": io.StringIO(), "stderr": io.StringIO()}


def captured(test: Callable[..., Any]) -> Callable[..., Any]:
    """Capture output in a test; not in a fixture, after which pytest puts its own streams back."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        streams = fixtures.get("outside") or {"stdout": io.StringIO(), "stderr": io.StringIO()}
        with pytest.MonkeyPatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            output.install()
            try:
                work = test(**fixtures)
                if inspect.isawaitable(work):
                    asyncio.run(work)
            finally:
                output.uninstall()

    return run


@pytest.fixture
def root_at_info() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


def printed(run: AgentRun, stream: str = "stdout") -> list[str]:
    """Return the lines of a run's log, having ended the unfinished ones."""
    output.flush(run.trace)
    texts = [data["text"] for data in run.events("stdout") if data["stream"] == stream]
    return [line for text in texts for line in text.split("\n")]


# --- one run ----------------------------------------------------------------------------------


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


class Hostile:
    """Can't be printed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__


@captured
def test_an_object_that_cant_be_printed_harms_nobody_else(
    outside: dict[str, io.StringIO],
) -> None:
    run = AgentRun()
    with pytest.raises(ValueError, match="no"):
        run.call(print, "before", Hostile(ValueError("no")))
    run.call(print, "after")
    assert "".join(printed(run)).endswith("after")


# --- logging ----------------------------------------------------------------------------------


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
def test_what_is_logged_outside_any_run_is_in_nobodys_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = AgentRun()
    logger.info("outside")
    assert run.sink.events == []
    assert "outside" in caplog.text


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


# --- secrets ----------------------------------------------------------------------------------


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


# --- many runs at once ------------------------------------------------------------------------

RUNS = 50
LINES = 20


def _write_line(name: int, number: int) -> None:
    """Print one line, each time in another way."""
    mark = f"{name}.{number}"
    match number % 5:
        case 0:
            print(mark)
        case 1:
            for piece in mark:
                print(piece, end="", flush=True)
            print()
        case 2:
            sys.stdout.write(mark + "\n")
        case 3:
            sys.stdout.writelines([mark[:2], mark[2:], "\n"])
        case 4:
            print(*mark, sep="")
    print(f"err {mark}", file=sys.stderr)
    logger.warning("log %s", mark)


def _check(run: AgentRun, name: int) -> None:
    marks = [f"{name}.{number}" for number in range(LINES)]
    assert printed(run) == marks
    assert printed(run, "stderr") == [f"err {mark}" for mark in marks]
    assert [data["message"] for data in run.events("log")] == [f"log {mark}" for mark in marks]


@captured
async def test_50_runs_that_print_at_once_on_one_loop_do_not_mix(
    outside: dict[str, io.StringIO],
) -> None:
    async def agent(name: int) -> None:
        for number in range(LINES):
            mark = f"{name}.{number}"
            for piece in (mark[:1], mark[1:]):
                print(piece, end="")
                await asyncio.sleep(0)  # in the middle of the line
            print()
            await asyncio.sleep(0)
            print(f"err {mark}", file=sys.stderr)
            logger.warning("log %s", mark)

    runs = [AgentRun() for _ in range(RUNS)]
    await within(SECONDS, asyncio.gather(*(run.task(agent(i)) for i, run in enumerate(runs))))
    for name, run in enumerate(runs):
        _check(run, name)
    assert {stream.getvalue() for stream in outside.values()} == {""}


@captured
def test_50_runs_that_print_at_once_in_threads_do_not_mix(
    outside: dict[str, io.StringIO],
) -> None:
    start = threading.Barrier(RUNS)

    def agent(name: int) -> None:
        start.wait(SECONDS)
        for number in range(LINES):
            _write_line(name, number)
            time.sleep(0)  # let another one in

    runs = [AgentRun() for _ in range(RUNS)]
    with ThreadPoolExecutor(RUNS) as pool:
        futures = [pool.submit(run.call, agent, name) for name, run in enumerate(runs)]
        for future in futures:
            future.result(SECONDS)
    for name, run in enumerate(runs):
        _check(run, name)
    assert {stream.getvalue() for stream in outside.values()} == {""}


@captured
def test_threads_of_one_run_do_not_cut_each_others_lines() -> None:
    for _ in range(20):
        run = AgentRun()
        start = threading.Barrier(4)

        def work(name: int, start: threading.Barrier = start) -> None:
            start.wait(SECONDS)
            for number in range(10):
                print(f"{name}", end="")
                time.sleep(0)
                print(f".{number}")

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(run.call, work, name) for name in range(4)]
            for future in futures:
                future.result(SECONDS)
        assert sorted(printed(run)) == sorted(f"{n}.{i}" for n in range(4) for i in range(10))


@captured
async def test_a_thread_that_a_run_starts_with_its_context_prints_into_its_log() -> None:
    run = AgentRun()

    async def agent() -> None:
        await asyncio.to_thread(print, "from a thread")

    await run.task(agent())
    assert printed(run) == ["from a thread"]


@captured
def test_what_a_finaliser_prints_while_a_line_is_taken_in_is_not_lost() -> None:
    """The garbage collector runs where garbage is made, under our own locks too."""
    run, other = AgentRun(), AgentRun()
    run.call(functools.partial(print, "unfinished", end=""))

    class Finalised:
        def __init__(self, run: AgentRun) -> None:
            self.run = run
            self.itself = self

        def __del__(self) -> None:
            self.run.call(functools.partial(print, " finalised", end=""))

    def collect_while_printing() -> None:
        Finalised(run)
        Finalised(other)
        assert isinstance(run.trace.pending_output, output._Pending)
        with run.trace.pending_output.lock, output._install_lock:
            gc.collect()

    gc.collect()
    thread = threading.Thread(target=collect_while_printing, daemon=True)
    thread.start()
    thread.join(SECONDS / 4)
    assert not thread.is_alive(), "the thread waits for a lock that it holds itself"
    assert sorted(printed(run)) == sorted(["unfinished", " finalised"])
    assert printed(other) == [" finalised"]


@captured
def test_what_is_printed_in_the_middle_of_a_write_is_not_lost() -> None:
    class Interrupted(str):
        __slots__ = ()

        def __radd__(self, before: str) -> str:  # as a finaliser comes in between two steps
            print("inner", end="")
            return before + str(self)

    run = AgentRun()
    run.call(lambda: sys.stdout.write(Interrupted("outer")))
    assert printed(run) == ["outerinner"]


# --- install and uninstall --------------------------------------------------------------------


def test_as_many_uninstalls_as_installs_give_the_streams_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_out, before_err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", before_out)
    monkeypatch.setattr(sys, "stderr", before_err)
    handlers = list(logging.getLogger().handlers)
    was_capturing = output.capturing()
    output.install()
    installed = sys.stdout
    output.install()
    assert sys.stdout is installed
    output.uninstall()
    assert sys.stdout is installed
    assert output.capturing()
    output.uninstall()
    assert (sys.stdout, sys.stderr) == (before_out, before_err)
    assert logging.getLogger().handlers == handlers
    assert output.capturing() is was_capturing
    output.uninstall()  # one too many is no error
    assert sys.stdout is before_out


def test_a_stream_that_somebody_else_has_put_there_is_left_alone(
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
