"""The progress log by itself: its module in an empty page of ours, fed with frames made by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from runs.wording import phrases
from tests.support.frames import at, event, run_frame
from tests.support.site.watch import HOSTILE, LONG_WORD

_OPEN = """
async ({ rootId, mayStop }) => {
  for (const name of ["tokens", "base", "components", "log"]) {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = `/static/runs/css/${name}.css`;
    await new Promise((loaded) => { link.onload = loaded; document.head.append(link); });
  }
  const holder = document.createElement("div");
  document.querySelector("main").replaceChildren(holder);
  window.stops = [];
  const stopChild = (id) =>
    new Promise((resolve, reject) => window.stops.push({ id, resolve, reject }));
  const { LogView } = await import("/static/runs/js/log.js");
  window.log = new LogView(holder, { rootId, mayStop, stopChild });
  window.settled = async () => {
    let height;
    do {
      height = holder.textContent.length;
      await new Promise((done) => setTimeout(() => requestAnimationFrame(done), 50));
    } while (height !== holder.textContent.length);
  };
}
"""


class Log:
    """A log in a page, and what a test wants to know of it."""

    def __init__(self, page: Page, *, may_stop: bool = True) -> None:
        self.page = page
        page.goto("/accounts/login/")
        page.evaluate(_OPEN, {"rootId": "root", "mayStop": may_stop})

    def apply(self, *frames: dict[str, Any]) -> None:
        self.page.evaluate("(frames) => log.apply(frames)", list(frames))

    def settle(self) -> None:
        self.page.evaluate("settled()")

    def group(self, run: str) -> Locator:
        return self.page.locator(f'section.group[data-run="{run}"]')

    def header(self, run: str) -> Locator:
        return self.group(run).locator("> .group-header")

    def line(self, run: str, seq: int) -> Locator:
        return self.group(run).locator(f'> .group-body > .block > .line[data-seq="{seq}"]')

    @property
    def live(self) -> Locator:
        return self.page.locator(".line.live")

    @property
    def box(self) -> Locator:
        return self.page.get_by_role("log")

    def order(self) -> list[str]:
        """Return what stands in the log from top to bottom: ``run/seq`` for lines, ``+run``."""
        order: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll(".group[data-run], .line[data-seq]")].map(
                 (element) => element.matches(".group") ? `+${element.dataset.run}`
                   : `${element.closest(".group").dataset.run}/${element.dataset.seq}`)"""
        )
        return order


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page(None)  # nobody is signed in: a page where nothing else goes on


@pytest.fixture
def log(page: Page) -> Log:
    log = Log(page)
    log.apply(run_frame("root", "teller"))
    return log


def activity(run: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"type": "activity", "run": run, "in_flight": list(calls), "words": {"usage": ""}}


def in_flight(call: str, tool: str = "call_llm", label: str = "llama3") -> dict[str, Any]:
    return {"call": call, "tool": tool, "label": label, "started_at": at(0)}


def text(call: str, piece: str) -> dict[str, Any]:
    return {"type": "text", "run": "root", "agent": "teller", "call": call, "text": piece}


def llm_call(seq: int, call: str, **data: Any) -> dict[str, Any]:
    known = {
        "tool": "call_llm",
        "label": "llama3",
        "duration_ms": 2345.6,
        "outcome": "ok",
        "input_tokens": 812,
        "output_tokens": 140,
        "text": "",
    }
    return event("root", seq, "llm_call", call=call, **known | data)


# Words.


def test_a_call_to_a_model_says_its_time_and_its_tokens(log: Log) -> None:
    log.apply(llm_call(1, "c.1", text="First line.\nSecond line."))
    line = log.line("root", 1)
    expect(line).to_contain_text("LLM")
    expect(line).to_contain_text("llama3 · 2.3 s · 812 in / 140 out")
    expect(line.get_by_text("First line.").first).to_be_visible()
    expect(line.get_by_text("Second line.")).to_be_hidden()
    line.locator("summary").press("Enter")
    expect(line.get_by_text("Second line.")).to_be_visible()


@pytest.mark.parametrize(
    ("outcome", "word"), [("error", "failed"), ("stopped", "stopped"), ("aborted", "cut off")]
)
def test_a_call_that_did_not_go_well_says_so_in_a_word(log: Log, outcome: str, word: str) -> None:
    error = {"type": "RateLimited", "message": "too much"}
    log.apply(llm_call(1, "c.1", outcome=outcome, error=error if outcome == "error" else None))
    expect(log.line("root", 1)).to_contain_text(word)
    if outcome == "error":
        expect(log.line("root", 1)).to_contain_text("RateLimited: too much")


_SAID: list[tuple[str, dict[str, Any], str]] = [
    ("agent_start", {}, "Started"),
    (
        "data_store",
        {"tool": "data_store.set", "label": "notes/part-1", "duration_ms": 2, "outcome": "ok"},
        "stored notes/part-1",
    ),
    (
        "data_store",
        {
            "tool": "data_store.get_many",
            "label": "notes",
            "keys_count": 1,
            "duration_ms": 230,
            "outcome": "ok",
        },
        "read 1 key in notes · 230 ms",
    ),
    (
        "http",
        {"label": "GET example.org", "status": 200, "duration_ms": 120.9, "outcome": "ok"},
        "GET example.org · 200 · 120 ms",
    ),
    ("agent_call", {"label": "nobody", "duration_ms": 1, "outcome": "error"}, "nobody · 1 ms"),
    (
        "agent_call",
        {"tool": "agents.start", "label": "nobody", "duration_ms": 9, "outcome": "ok"},
        "nobody · started",
    ),
    (
        "agent_call",
        {"tool": "agents.wait", "label": "nobody", "duration_ms": 9, "outcome": "ok"},
        "nobody · 9 ms",
    ),
    ("log", {"level": "warning", "message": "careful", "logger": "x.y"}, "Warning"),
    ("log", {"level": "error", "message": {"not": "text"}}, '"not": "text"'),
    ("error", {"type": "ValueError", "message": "no", "traceback": "at x"}, "ValueError: no"),
    ("loop_blocked", {"blocked_ms": 2000, "is_over": True, "where": ["a.py:1 in f"]}, "for 2.0 s"),
    ("truncated", {"max_events": 10000}, "after 10000 events"),
    (
        "stop_requested",
        {"mode": "graceful", "via": "page", "requested_by": "demo", "reason": "wrong document"},
        "Stop asked for by demo: wrong document",
    ),
    (
        "stop_requested",
        {"mode": "abort", "via": "parent", "requested_by": "demo", "reason": ""},
        "Stop asked for by demo, with the run that called it (abort)",
    ),
    ("stop_observed", {"tool": "call_llm", "label": "llama3"}, "the next LLM call was not made"),
    ("stop_observed", {"tool": "agents.start", "label": "x"}, "the next agent was not started: x"),
    ("stop_observed", {"tool": "agents.wait", "label": "x"}, "while it waited for an agent: x"),
    ("stop_observed", {"tool": "", "label": ""}, "the agent has noticed it"),
    ("agent_end", {"status": "stopped", "events_dropped": 3}, "Stopped · 3 events were left out"),
    ("something_new", {"a": 1}, "something_new"),
]


@pytest.mark.parametrize(("type", "data", "words"), _SAID)
def test_every_event_is_said_in_words(
    log: Log, type: str, data: dict[str, Any], words: str
) -> None:
    log.apply(event("root", 1, type, **data))
    expect(log.line("root", 1)).to_contain_text(words)


def test_what_nobody_knows_is_shown_with_all_it_brings(log: Log) -> None:
    log.apply(event("root", 1, "something_new", colour="blue"))
    expect(log.line("root", 1).get_by_text("blue")).to_be_hidden()
    log.line("root", 1).get_by_text("Details").click()
    expect(log.line("root", 1)).to_contain_text('"colour": "blue"')


def test_a_second_attempt_says_that_it_is_one(log: Log) -> None:
    log.apply(event("root", 1, "agent_start"), event("root", 2, "agent_start"))
    expect(log.line("root", 2)).to_contain_text("Started again (attempt 2)")


def test_times_are_those_of_the_reader(log: Log) -> None:
    log.apply(event("root", 1, "log", 62, message="x"))
    expect(log.line("root", 1).locator("time")).to_have_text("17:31:02")  # Kolkata


def test_durations_are_written_as_the_server_writes_them(page: Page) -> None:
    some = random.Random(1)
    seconds = [0, 0.0004, 0.9999, 1, 1.05, 9.99, 9.999, 10, 59.999, 60, 61.5, 3599.9, 3600, 90061]
    seconds += [some.uniform(0, limit) for limit in (1, 10, 60, 3600, 1e6) for _ in range(200)]
    page.goto("/accounts/login/")
    written = page.evaluate(
        """async (all) => {
          const { duration } = await import("/static/runs/js/format.js");
          return all.map(duration);
        }""",
        seconds,
    )
    assert written == [phrases.duration(one) for one in seconds]


def test_an_empty_log_says_what_it_waits_for(page: Page) -> None:
    log = Log(page)
    empty = log.group("root").locator(".group-empty")
    log.apply(run_frame("root", status="queued"))
    expect(empty).to_have_text("Waiting for a worker.")
    log.apply(run_frame("root", status="running"))
    expect(empty).to_have_text("Nothing has happened yet.")
    log.apply(event("root", 1, "agent_start"))
    expect(empty).to_be_hidden()


# The tree.


def _family() -> dict[str, list[dict[str, Any]]]:
    """Return a family's frames, each run's in order: whose come first is not said."""
    return {
        "root": [
            run_frame("root", "teller"),
            event("root", 1, "agent_start", 0),
            event("root", 2, "log", 1, message="before"),
            event("root", 3, "log", 3, message="between"),
            event("root", 4, "agent_call", 6, label="elder", run="elder", outcome="ok"),
            event("root", 5, "log", 9, message="after"),
        ],
        "elder": [
            run_frame("elder", "elder", "success", parent="root", began=2, ended=6),
            event("elder", 1, "agent_start", 2),
            event("elder", 2, "agent_end", 6, status="success"),
        ],
        "younger": [
            run_frame("younger", "younger", parent="root", began=4),
            event("younger", 1, "agent_start", 4),
        ],
        "grandchild": [
            run_frame("grandchild", "grandchild", parent="younger", began=5),
            event("grandchild", 1, "agent_start", 5),
        ],
    }


_FAMILY_ORDER = [
    *("+root", "root/1", "root/2", "+elder", "elder/1", "elder/2", "root/3"),
    *("+younger", "younger/1", "+grandchild", "grandchild/1", "root/5"),
]


@pytest.mark.parametrize("seed", range(12))
def test_a_run_stands_where_it_began_in_whatever_order_it_is_told(page: Page, seed: int) -> None:
    family = _family()
    some = random.Random(seed)
    frames = []
    while left := [run for run, its_frames in family.items() if its_frames]:
        frames.append(family[some.choice(left)].pop(0))
    log = Log(page)
    for frame in frames:
        log.apply(frame)
    log.settle()
    assert log.order() == _FAMILY_ORDER


def test_a_group_says_how_its_run_stands(log: Log) -> None:
    usage = "7 LLM calls · 12.4k tokens"
    log.apply(run_frame("kid", "elder", "error", parent="root", began=2, ended=5.25, usage=usage))
    header = log.header("kid")
    expect(header.locator(".chip")).to_have_text("Error")
    expect(header).to_contain_text("3.2 s")
    expect(header).to_contain_text(usage)
    expect(header.get_by_role("link", name="Open elder")).to_have_attribute(
        "href", "/app/runs/kid/"
    )


def test_a_group_folds_and_unfolds_by_keyboard(log: Log) -> None:
    log.apply(run_frame("kid", "elder", parent="root"), event("kid", 1, "agent_start"))
    toggle = log.header("kid").get_by_role("button", name="elder", exact=True)
    expect(toggle).to_have_attribute("aria-expanded", "true")
    toggle.press("Enter")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    expect(log.line("kid", 1)).to_be_hidden()
    toggle.press("Space")
    expect(log.line("kid", 1)).to_be_visible()


def test_progress_is_one_bar_and_no_lines(log: Log) -> None:
    for done in (1, 5):
        log.apply(event("root", done, "progress", done=done, total=9, message="reading"))
    bar = log.header("root").get_by_role("progressbar", name="reading")
    expect(bar).to_have_attribute("value", "5")
    expect(log.header("root")).to_contain_text("reading 5 of 9")
    expect(log.page.locator(".line")).to_have_count(0)
    log.apply(run_frame("root", status="stopped", ended=7))
    expect(bar).to_be_visible()  # how far it came
    log.apply(run_frame("root", status="success", ended=7))
    expect(bar).to_be_hidden()


def test_a_run_that_is_over_takes_what_was_live_with_it(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1")))
    expect(log.live).to_have_count(1)
    log.apply(run_frame("root", status="error", ended=3), activity("root", in_flight("c.1")))
    expect(log.live).to_have_count(0)


# What is going on.


def test_a_call_in_flight_is_shown_until_its_line_takes_its_place(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1"), in_flight("c.2", "http", "GET example.org")))
    expect(log.live).to_have_count(2)
    expect(log.live.first).to_contain_text("llama3 ·")
    log.apply(llm_call(1, "c.1"))
    expect(log.live).to_have_count(1)
    expect(log.live).to_contain_text("GET example.org")
    log.apply(activity("root", in_flight("c.1")))  # old news
    expect(log.live).to_have_count(0)


def test_a_snapshot_says_what_is_in_flight(log: Log) -> None:
    snapshot = run_frame("root")
    snapshot["run"]["in_flight"] = [in_flight("c.1", "data_store.set", "notes/part-1")]
    log.apply(snapshot)
    expect(log.live).to_contain_text("storing notes/part-1")
    log.apply(run_frame("root"))
    expect(log.live).to_have_count(0)


def test_the_call_of_a_run_that_is_shown_has_no_row_of_its_own(log: Log) -> None:
    calls = [in_flight("c.1", "agents.call", "elder"), in_flight("c.2", "agents.call", "elder")]
    log.apply(activity("root", *calls))
    expect(log.live).to_have_count(2)
    log.apply(run_frame("kid", "elder", parent="root"))
    expect(log.live).to_have_count(1)


def test_a_started_run_that_is_shown_has_neither_row_nor_lines_of_its_own(log: Log) -> None:
    begun = {"tool": "agents.start", "label": "elder", "run": "kid", "outcome": "ok"}
    log.apply(activity("root", in_flight("c.1", "agents.start", "elder")))
    expect(log.live).to_contain_text("starting elder")
    log.apply(event("root", 1, "agent_call", call="c.1", **begun))
    log.apply(activity("root", in_flight("c.2", "agents.wait", "elder")))
    expect(log.live).to_have_count(1)
    expect(log.line("root", 1)).to_contain_text("started")
    log.apply(run_frame("kid", "elder", parent="root"))
    expect(log.live).to_have_count(0)
    expect(log.line("root", 1)).to_have_count(0)


def test_of_a_started_run_that_is_not_shown_the_last_line_stays(log: Log) -> None:
    data = {"label": "elder", "run": "kid", "outcome": "ok"}
    log.apply(event("root", 1, "agent_call", tool="agents.start", **data))
    log.apply(event("root", 2, "agent_call", tool="agents.wait", duration_ms=4, **data))
    expect(log.line("root", 1)).to_have_count(0)
    expect(log.line("root", 2)).to_contain_text("elder · 4 ms")


def test_text_grows_as_it_is_written_and_goes_when_the_reply_is_there(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1")), text("c.1", "The second "))
    log.apply(text("c.1", "chapter"))
    expect(log.live).to_contain_text("writing...")
    expect(log.live.locator("pre")).to_have_text("The second chapter")
    log.apply(llm_call(1, "c.1", text="The second chapter."), text("c.1", " again"))
    expect(log.line("root", 1)).to_contain_text("The second chapter.")
    expect(log.live).to_have_count(0)


def test_text_begins_anew_after_a_lost_connection(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1")), text("c.1", "The sec"))
    expect(log.live.locator("pre")).to_have_text("The sec")
    log.page.evaluate("log.reconnected()")
    log.apply(text("c.1", "The second chapter"))
    expect(log.live.locator("pre")).to_have_text("The second chapter")


# Stopping a called run.


def _stop_button(log: Log) -> Locator:
    log.apply(run_frame("kid", "elder", parent="root"))
    return log.header("kid").get_by_role("button", name="Stop elder")


def test_a_called_run_is_stopped_by_its_own_button(log: Log) -> None:
    stop = _stop_button(log)
    stop.click()
    stopping = log.header("kid").get_by_role("button", name="Stopping elder")
    expect(stopping).to_be_disabled()
    expect(stopping).to_have_text("Stopping...")
    assert log.page.evaluate("stops.map((one) => one.id)") == ["kid"]
    log.page.evaluate("stops[0].resolve()")
    waiting = {"text": "Stopping... (after current LLM call completes)"}
    log.apply(run_frame("kid", "elder", "stopping", parent="root", waiting=waiting))
    expect(log.header("kid")).to_contain_text("after current LLM call completes")
    expect(stopping).to_be_disabled()
    log.apply(run_frame("kid", "elder", "stopped", parent="root", ended=4))
    expect(log.header("kid").get_by_role("button")).to_have_count(1)  # only the one that folds
    expect(log.header("kid").locator(".chip")).to_have_text("Stopped")


def test_a_failed_stop_says_so_and_can_be_repeated(log: Log) -> None:
    stop = _stop_button(log)
    stop.click()
    log.page.evaluate("stops[0].reject(new Error('The server can\\'t be reached.'))")
    expect(stop).to_be_enabled()
    expect(log.header("kid").get_by_role("status")).to_have_text(
        "Not stopped: The server can't be reached."
    )


def test_who_may_not_stop_has_no_button(page: Page) -> None:
    log = Log(page, may_stop=False)
    log.apply(run_frame("root"), run_frame("kid", "elder", parent="root"))
    expect(log.header("kid").locator(".chip")).to_have_text("Running")
    expect(log.header("kid").get_by_role("button")).to_have_count(1)


# Text of others.


def test_long_output_is_folded(log: Log) -> None:
    lines = "".join(f"row {number}\n" for number in range(1, 214))
    log.apply(event("root", 1, "stdout", stream="stdout", text=lines))
    line = log.line("root", 1)
    expect(line).to_contain_text("row 8")
    expect(line).not_to_contain_text("row 213")
    line.get_by_role("button", name="Show all 213 lines").click()
    expect(line).to_contain_text("row 213")
    line.get_by_role("button", name="Show less").click()
    expect(line).not_to_contain_text("row 213")


def _everything_hostile() -> list[dict[str, Any]]:
    return [
        run_frame("root", HOSTILE, usage=HOSTILE),
        run_frame("kid", HOSTILE + LONG_WORD, parent="root", silent=HOSTILE),
        event("root", 1, "log", level=HOSTILE, message=HOSTILE, logger=HOSTILE, traceback=HOSTILE),
        event("root", 2, "log", level="error", message=LONG_WORD),
        event("root", 3, "stdout", stream=HOSTILE, text=HOSTILE),
        event("root", 4, "stdout", stream="stdout", text=LONG_WORD),
        event("root", 5, "error", type=HOSTILE, message=HOSTILE, traceback=HOSTILE),
        llm_call(6, "c", label=HOSTILE, text=HOSTILE + LONG_WORD, tool_calls=[{HOSTILE: HOSTILE}]),
        event("root", 7, "data_store", tool=f"data_store.{HOSTILE}", label=HOSTILE, outcome="ok"),
        event("root", 8, "http", label=LONG_WORD, status=HOSTILE, outcome=HOSTILE),
        event("root", 9, HOSTILE, **{HOSTILE: HOSTILE}),
        event("root", 10, "stop_requested", mode=HOSTILE, requested_by=HOSTILE, reason=HOSTILE),
        event("root", 11, "progress", done=1, total=2, message=HOSTILE + LONG_WORD),
        event("root", 12, "agent_end", status=HOSTILE),
        activity("root", in_flight("x", HOSTILE, HOSTILE), in_flight("y", "http", LONG_WORD)),
        text("y", HOSTILE),
    ]


@pytest.mark.parametrize("phone", [False, True])
def test_hostile_text_stays_text_and_in_its_place(
    open_page: Callable[..., Page], phone: bool
) -> None:
    log = Log(open_page(None, phone=phone))
    log.apply(*_everything_hostile())
    log.settle()
    expect(log.line("root", 12)).to_be_attached()
    assert log.page.title() != "owned"
    inside = log.page.locator(".log")
    assert inside.locator("script, img, svg[onload], iframe, b").count() == 0
    expect(log.line("root", 1).locator("bdi").first).to_have_text(HOSTILE.replace("\x1b[31m", ""))
    assert log.box.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    assert log.page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )


def test_foreign_writing_directions_end_where_the_text_ends(log: Log) -> None:
    log.apply(
        event("root", 1, "log", message=HOSTILE),
        event("root", 2, "stdout", stream="stdout", text=HOSTILE),
        llm_call(3, "c.1", text=HOSTILE),
    )
    expect(log.line("root", 3)).to_be_attached()
    loose = log.page.evaluate(
        """(mark) => {
          const log = document.querySelector(".log");
          const walker = document.createTreeWalker(log, NodeFilter.SHOW_TEXT);
          const loose = [];
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const kind = getComputedStyle(node.parentElement).unicodeBidi;
            const isKept = ["isolate", "plaintext"].includes(kind);
            if (node.data.includes(mark) && !isKept) loose.push(kind);
          }
          return loose;
        }""",
        "\u202e",
    )
    assert loose == []


# Many lines.

_FLOOD = 5_000


def _flood(run: str = "root", count: int = _FLOOD, first: int = 1) -> list[dict[str, Any]]:
    frames = []
    for seq in range(first, first + count):
        if seq % 10 == 0:
            frames.append(llm_call(seq, f"c.{seq}", text=f"Reply {seq}.\nAnd more of it."))
        elif seq % 3 == 0:
            frames.append(event(run, seq, "stdout", stream="stdout", text=f"printed {seq}\n"))
        else:
            frames.append(event(run, seq, "log", level="info", message=f"line {seq}"))
    return frames


_ANSWERS = """
(frames) => new Promise((resolve) => {
  // Click again and again, each time until the first frame after the click was painted, while the
  // frames are drawn; say how often.
  const button = document.querySelector(".group-toggle");
  let count = 0;
  const click = () => setTimeout(() => { // a task of its own, as a click of the reader's hand
    button.click();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        count += 1;
        if (document.querySelectorAll(".line").length < frames.length) click();
        else resolve(count);
      };
      channel.port2.postMessage(null);
    });
  });
  log.apply(frames);
  click();
})
"""


def test_a_click_is_answered_while_thousands_of_events_arrive(log: Log) -> None:
    devtools = log.page.context.new_cdp_session(log.page)
    # The page's processor time: how long that takes by the clock is up to what else goes on here.
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def processor_seconds() -> float:
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    began = processor_seconds()
    # Twice the usual: a browser without a screen draws more lines in each of its turns.
    count = log.page.evaluate(_ANSWERS, _flood(count=2 * _FLOOD))
    seconds = processor_seconds() - began
    assert count >= 10, f"the flood was drawn in {count} long turns"
    assert seconds / count < 0.1, f"{count} clicks were answered in {seconds} s"


def test_far_away_lines_are_not_drawn(log: Log) -> None:
    log.apply(*_flood(count=1_000))
    expect(log.line("root", 1_000)).to_be_attached(timeout=60_000)
    expect(log.page.locator(".block")).to_have_count(10)
    assert log.line("root", 1).evaluate(
        "(line) => line.checkVisibility() && !line.checkVisibility({ contentVisibilityAuto: true })"
    )


def _distance_from_end(log: Log) -> float:
    distance: float = log.box.evaluate(
        "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
    )
    return distance


def test_the_end_stays_in_sight_unless_the_reader_scrolls_up(log: Log) -> None:
    log.apply(*_flood(count=300))
    log.settle()
    assert _distance_from_end(log) < 2
    jump = log.page.get_by_role("button", name="Jump to the latest")
    expect(jump).to_be_hidden()
    log.box.hover()
    log.page.mouse.wheel(0, -400)
    expect(jump).to_be_visible()
    log.settle()
    seen = log.box.evaluate("(box) => box.scrollTop")
    log.apply(*_flood(count=25, first=301))
    expect(jump).to_have_text("Jump to the latest · 25 new lines")
    log.settle()
    assert log.box.evaluate("(box) => box.scrollTop") == pytest.approx(seen, abs=2)
    jump.click()
    expect(jump).to_be_hidden()
    log.apply(*_flood(count=25, first=326))
    log.settle()
    assert _distance_from_end(log) < 2


def test_what_the_reader_opens_does_not_run_away(log: Log) -> None:
    long = "\n".join(f"row {number}" for number in range(200))
    log.apply(*_flood(count=60), event("root", 61, "stdout", stream="stdout", text=long))
    button = log.page.get_by_role("button", name="Show all 200 lines")
    before = button.bounding_box()
    assert before is not None
    button.click()
    log.settle()
    first = log.line("root", 61).bounding_box()
    assert first is not None
    assert first["y"] + first["height"] > before["y"], "its beginning is where it was"
    expect(log.page.get_by_role("button", name="Jump to the latest")).to_be_visible()


def test_the_log_is_not_read_out(log: Log) -> None:
    expect(log.box).to_have_attribute("aria-live", "off")
    expect(log.box).to_have_attribute("tabindex", "0")
