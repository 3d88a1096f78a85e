"""`manage.py run_agent`: in this process where that will do, else as a real one, with signals."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from agents import SyncTools, Tools, agent, should_stop
from runs.actions import stopping
from runs.management.console import Console, printable
from runs.management.input_arguments import UnreadableInput, read_input, read_json_input
from runs.models import RunRecord
from tests.support.consistency import assert_consistent
from tests.support.processes import start_manage

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 40
SENTENCE = "In {n} the ship number {n} left harbour {n} at dawn, and {n} people saw her sail. "


# --- From arguments to an input ------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "flag": {"type": "boolean"},
        "maybe_count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "maybe_text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "texts": {"type": "array", "items": {"type": "string"}},
        "maybe_texts": {"anyOf": [{"$ref": "#/$defs/Texts"}, {"type": "null"}]},
        "counts": {"type": "array", "items": {"type": "integer"}},
        "object": {"$ref": "#/$defs/Thing"},
        "colour": {"enum": ["red", "blue"]},
        "anything": {},
    },
    "$defs": {
        "Thing": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "Texts": {"type": "array", "items": {"type": "string"}},
    },
}


def _read(*arguments: str, max_bytes: int = 1000) -> dict[str, Any]:
    return read_input(arguments, SCHEMA, max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["text=12"], {"text": "12"}),
        (["text="], {"text": ""}),
        (["text=a=b"], {"text": "a=b"}),
        (["text=null"], {"text": "null"}),
        (["text=@@home"], {"text": "@home"}),
        (["count=12"], {"count": 12}),
        (["ratio=1"], {"ratio": 1}),
        (["ratio=0.5"], {"ratio": 0.5}),
        (["flag=true"], {"flag": True}),
        (["maybe_count=null"], {"maybe_count": None}),
        (["maybe_count=3"], {"maybe_count": 3}),
        (["maybe_text=null"], {"maybe_text": None}),
        (["maybe_text=12"], {"maybe_text": "12"}),
        (["either=12"], {"either": 12}),
        (["either=12 ships"], {"either": "12 ships"}),
        (["either=true"], {"either": "true"}),
        (["texts=a", "texts=12"], {"texts": ["a", "12"]}),
        (['texts=["a", "b"]', "texts=c"], {"texts": ["a", "b", "c"]}),
        (["texts=[a]"], {"texts": ["[a]"]}),
        (["texts=[]"], {"texts": []}),
        (["maybe_texts=a", "maybe_texts=b"], {"maybe_texts": ["a", "b"]}),
        (["counts=1", "counts=[2, 3]"], {"counts": [1, 2, 3]}),
        (['object={"a": 1}'], {"object": {"a": 1}}),
        (["colour=red"], {"colour": "red"}),
        (["anything=[1]"], {"anything": [1]}),
        (["anything=some words"], {"anything": "some words"}),
        (["unheard_of=1"], {"unheard_of": "1"}),
    ],
)
def test_a_value_means_what_its_parameter_takes(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    assert _read(*arguments) == expected


def test_what_does_not_fit_is_left_to_the_schema() -> None:
    assert _read("count=1.5", "flag=1") == {"count": 1.5, "flag": 1}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UnreadableInput) as caught:
        _read("count=many", "flag=yes", "text=a", "text=b", "alone", "=x", "ratio=NaN", "object={")
    fields = caught.value.fields
    assert fields["input.count"] == ["'many' is not a whole number."]
    assert fields["input.flag"] == ["'yes' is not true or false."]
    assert fields["input.text"] == ["It was given twice, and it takes one value."]
    assert fields["input.ratio"] == ["'NaN' is not a number."]
    assert fields["input.object"] == ["'{' is not an object in JSON."]
    assert len(fields["input"]) == 2
    assert caught.value.readable == {"text": "a"}


def test_a_file_gives_its_text_and_its_json(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbf[1]\r\nGr\xc3\xbc\xc3\x9fe")
    (tmp_path / "counts").write_text("[1, 2]\n")
    given = _read(f"text=@{tmp_path}/text", f"texts=@{tmp_path}/text", f"counts=@{tmp_path}/counts")
    text = "[1]\r\nGrüße"
    assert given == {"text": text, "texts": [text], "counts": [1, 2]}


def test_a_pdf_becomes_a_data_url(tmp_path: Path) -> None:
    content = b"%PDF-1.4\n\xff\xfe\x00"
    (tmp_path / "a").write_bytes(content)
    url = f"data:application/pdf;base64,{base64.b64encode(content).decode()}"
    given = _read(f"text=@{tmp_path}/a", f"texts=@{tmp_path}/a", "texts=b")
    assert given == {"text": url, "texts": [url, "b"]}


@pytest.mark.parametrize(
    ("content", "argument", "message"),
    [
        (b"ab\xffc", "text=@FILE", "no text in UTF-8 (byte 2 is 0xff)"),
        (b"%PDF-\xff", "count=@FILE", "a PDF"),
        (b"x" * 1001, "text=@FILE", "more than 1,000 bytes"),
        (b"", "text=@FILE/missing", "can't be read: Not a directory"),
        (b"", "text=@/", "can't be read: Is a directory"),
        (b"", "text=@", "comes the name of a file"),
        (b"", "text=@a\0b", "can't be the name of a file"),
    ],
)
def test_a_file_that_can_not_be_used(
    content: bytes, argument: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UnreadableInput) as caught:
        _read(argument.replace("FILE", f"{tmp_path}/file"))
    assert message in str(caught.value.fields)


def test_input_json_comes_as_text_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"n": 1}')
    assert read_json_input('{"n": 1}', max_bytes=100) == {"n": 1}
    assert read_json_input(f"@{tmp_path}/a.json", max_bytes=100) == {"n": 1}
    for wrong in ("{", "[" * 100_000, "NaN", f"@{tmp_path}/none"):
        with pytest.raises(UnreadableInput):
            read_json_input(wrong, max_bytes=100)


# --- The display ---------------------------------------------------------------------------------


def _event(kind: str, run: str = "r", agent: str = "a", **data: Any) -> dict[str, Any]:
    return {
        "run": run,
        "seq": 1,
        "ts": "2024-05-06T14:03:22+00:00",
        "type": kind,
        "agent": agent,
        "depth": 0 if run == "r" else 1,
        "source": "system",
        "data": data,
    }


def _call(kind: str, tool: str, label: str, **data: Any) -> dict[str, Any]:
    return _event(kind, tool=tool, label=label, duration_ms=2300, call="1", **data)


def _shown(*news: dict[str, Any], verbosity: int = 1) -> list[str]:
    stream = io.StringIO()
    console = Console(stream, verbosity=verbosity)
    for event in news:
        console.event(event)
    return [line.removeprefix("14:03:22  ") for line in stream.getvalue().splitlines()]


def test_lines_are_grouped_by_agent_and_children_are_indented() -> None:
    lines = _shown(
        _event("log", message="one"),
        _event("log", message="two"),
        _event("log", run="c", agent="b", message="three"),
        _event("log", run="d", agent="b", message="four"),
        _event("log", message="five"),
    )
    assert lines == [
        "▸ a",
        "  one",
        "  two",
        "  ▸ b",
        "    three",
        "  ▸ b (2)",
        "    four",
        "▸ a",
        "  five",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            _call("llm_call", "call_llm", "m", outcome="ok", input_tokens=812, output_tokens=140),
            "LLM  m  2.3 s · 812 in / 140 out",
        ),
        (_call("data_store", "data_store.set", "n/k", outcome="ok"), "stored n/k"),
        (
            _call("data_store", "data_store.get_many", "n", outcome="ok", keys_count=2),
            "looked up 2 keys in n",
        ),
        (_call("http", "http", "GET x", outcome="ok", status=200), "HTTP GET x · 200 · 2.3 s"),
        (
            _call("http", "http", "GET x", outcome="error", error={"type": "E", "message": "gone"}),
            "HTTP GET x · 2.3 s · failed: gone",
        ),
        (
            _call("agent_call", "agents.call", "b", outcome="stopped", status="stopped"),
            "sub-agent b Stopped · 2.3 s",
        ),
        (_event("progress", done=5, total=9, message="parts"), "5 of 9 parts"),
        (_event("progress", done=5, total=None, message=""), "5"),
        (_event("log", level="warning", message="low"), "warning: low"),
        (_event("log", level="info", message={"a": 1}), '{"a": 1}'),
        (_event("stdout", stream="stdout", text="hello"), "> hello"),
        (_event("error", type="ValueError", message="bad"), "ValueError: bad"),
        (_event("stop_observed", tool="call_llm", label="m"), "met the stop at call_llm m"),
        (_event("loop_blocked", blocked_ms=517, is_over=False), "blocks the agents' loop: 517 ms"),
        (_event("truncated", max_events=10), "the log is full; what follows is left out"),
        (_event("agent_end", status="stopped"), "■ Stopped"),
        (_event("invented_later"), None),
    ],
)
def test_each_event_in_words(event: dict[str, Any], line: str | None) -> None:
    assert _shown(event) == ([] if line is None else ["▸ a", f"  {line}"])


def test_nothing_that_an_agent_writes_can_steer_the_terminal() -> None:
    evil = "a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\rd"
    news = [
        _event("log", agent=evil, message=evil),
        _event("stdout", agent=evil, text=evil),
        _call("llm_call", "call_llm", evil, outcome="ok", text=evil),
        _event("error", type=evil, message=evil),
    ]
    shown = "\n".join(_shown(*news))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert printable("a\r\nb\tc\x00") == "a\nb\tc\ufffd"


def test_quiet_shows_no_log_and_verbose_shows_tracebacks() -> None:
    error = _event("error", type="E", message="m", traceback="Traceback ...\n  at x")
    assert _shown(error, verbosity=0) == []
    assert _shown(error) == ["▸ a", "  E: m"]
    assert "  Traceback ..." in _shown(error, verbosity=2)


def test_what_is_in_flight_is_known_before_the_first_event_is_stored() -> None:
    stream = io.StringIO()
    console = Console(stream)
    call = {"call": "1", "tool": "call_llm", "label": "m", "started_at": "2024-05-06T14:03:22Z"}
    console.activity("r", [call])
    console.event(_event("agent_start"))
    console.event(_event("stop_requested"))
    console.tick()
    assert "Stopping... (after current LLM call completes) m, " in stream.getvalue()


def test_text_that_comes_before_its_agent_has_begun_is_shown_after_that() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.text("r", "1", "some words")
    console.tick()
    assert stream.getvalue() == ""
    console.event(_event("agent_start", title="A"))
    console.event(_call("llm_call", "call_llm", "m", outcome="ok", text="some words"))
    lines = [line[10:] for line in stream.getvalue().splitlines()]
    assert lines == ["▸ a", "  A", "  │ some words", "  LLM  m  2.3 s"]


def test_long_text_comes_in_whole_lines() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.event(_event("agent_start"))
    words = " ".join(f"word{n}" for n in range(40))
    for start in range(0, len(words), 7):
        console.text("r", "1", words[start : start + 7])
    console.event(_call("llm_call", "call_llm", "m", outcome="ok", text=words))
    told = [line[14:] for line in stream.getvalue().splitlines() if "│" in line]
    assert " ".join(told) == words
    assert all(len(line) <= 88 for line in told)


# --- In this process -----------------------------------------------------------------------------


@pytest.fixture
def demo(transactional_db: None, options: Any) -> User:
    return User.objects.create_user("demo", password="demo")


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


class Process:
    """A manage.py process on the test's database, and what it says."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.began = time.monotonic()
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        self._process = start_manage(
            *arguments, environment=_environment(**environment), stdout=its_out, stderr=its_err
        )
        os.close(its_out)
        os.close(its_err)
        self._out, self._err = open(out), open(err)  # noqa: SIM115 - closed by kill
        self.err = ""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._err:
            with self._news:
                self.err += line
                self._news.notify_all()

    def wait_for(self, words: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: words in self.err, TIMEOUT_SECONDS), self.err

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Return the exit code and standard output."""
        out = self._out.read()
        code = self._process.wait(TIMEOUT_SECONDS)
        self._reader.join(TIMEOUT_SECONDS)
        assert "Traceback" not in self.err, self.err
        return code, out

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(TIMEOUT_SECONDS)
        self._reader.join(TIMEOUT_SECONDS)
        self._out.close()
        self._err.close()


def _test_database_url() -> str:
    """Return the address under which another process finds the database of this test."""
    options = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{options['NAME']}"
    user = quote(f"{options['USER']}:{options['PASSWORD']}", safe=":")
    return f"postgres://{user}@{options['HOST']}:{options['PORT']}/{options['NAME']}"


def _environment(**changes: str) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": _test_database_url(),
        "DJANGO_DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "LLM_BASE_URL": "",
        "LLM_API_KEY": "",
        **changes,
    }


@contextmanager
def _run_agent(*arguments: str, **environment: str) -> Iterator[Process]:
    process = Process("run_agent", *arguments, **environment)
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture
def document(tmp_path: Path) -> str:
    """Return the argument for a document of more than 100 kB."""
    path = tmp_path / "document.txt"
    path.write_text("\n\n".join(SENTENCE.format(n=n) for n in range(1500)))
    assert path.stat().st_size > 100_000
    return f"document=@{path}"


def test_ctrl_c_stops_it_after_the_call_in_flight(demo: User, document: str) -> None:
    with _run_agent("summarise", "--input", document) as process:
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


def test_the_second_ctrl_c_explains_and_the_third_leaves_at_once(demo: User, document: str) -> None:
    with _run_agent("summarise", "--input", document) as process:
        process.wait_for("│ ")
        process.send(signal.SIGINT)
        process.wait_for("Stopping... (after current LLM call completes)")
        process.send(signal.SIGINT)
        process.wait_for("Ctrl-C once more leaves at once")
        process.send(signal.SIGINT)
        code, out = process.end()
    assert (code, out) == (3, "")
    run = _only_run()
    assert str(run.pk) in process.err.splitlines()[-1]
    assert (run.status, run.stop_requested) == ("running", True)  # until its lease is over


def test_sigterm_drains_and_is_nobodys_stop(demo: User, document: str) -> None:
    with _run_agent("summarise", "--input", document, RUNS_DRAIN_SECONDS="0") as process:
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
    with _run_agent("summarise", "--remote", "--input", document) as process:
        process.wait_for("0 of ")
        process.send(signal.SIGINT)
        process.wait_for("Stopping... (after current LLM call completes)")
        code, out = process.end()
    assert code == 3
    run = assert_consistent(_only_run())
    assert (run.status, run.stop_via, run.stop_requested_by) == ("stopped", "cli", demo)
    assert out == f"{run.partial_result}\n"


def test_a_remote_run_without_a_worker_says_so_and_is_stopped_at_once(demo: User) -> None:
    with _run_agent("count_words", "--remote", "--input", "text=a") as process:
        process.wait_for("none is there")
        process.send(signal.SIGINT)
        code, out = process.end()
    assert (code, out) == (3, "")
    assert "It had not begun." in process.err
    assert assert_consistent(_only_run()).status == "stopped"


def test_on_a_terminal_it_shows_what_goes_on_and_leaves_no_trace_of_that(
    demo: User, document: str
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "run_agent", "summarise", "--input", document],
        cwd=ROOT,
        env=_environment(TERM="xterm-256color", COLUMNS="100", LINES="30"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        screen = _read_screen(ours, until="writing:")
        assert re.search(r"◐ .*summarise.*\[[#-]+\] 0 of \d+ reading", screen)
        process.send_signal(signal.SIGINT)
        screen = _read_screen(ours, until="Stopped by demo")
        assert "Stopping... (after current LLM call completes) stand-in, " in screen
        assert process.wait(TIMEOUT_SECONDS) == 3
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"Notes on ")
        assert "\x1b[?25h" in screen, "the cursor was hidden, and is back"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        os.close(ours)


def _read_screen(terminal: int, *, until: str) -> str:
    """Read from a terminal, colours left out, until some words have come."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    raw = b""
    while time.monotonic() < deadline:
        raw += os.read(terminal, 65536)
        text = re.sub(r"\x1b\[[0-9;]*m", "", raw.decode(errors="replace"))
        if until in text:
            return text
    raise AssertionError(f"{until!r} did not come: {text}")


def test_a_reader_that_has_enough_is_no_error(demo: User) -> None:
    command = f"{sys.executable} manage.py run_agent count_words --input text=a 2>&1 | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert assert_consistent(_only_run()).status == "success"
