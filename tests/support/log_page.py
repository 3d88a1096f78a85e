"""Helpers of the tests in tests/browser/log."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page

from tests.support.frames import at, event

_OPEN = """
async ({ rootId, mayStop }) => {
  for (const left of document.querySelectorAll("dialog")) left.remove();
  window.scrollTo(0, 0);
  for (const name of ["tokens", "base", "components", "log"]) {
    if (document.querySelector(`link[href$="/${name}.css"]`)) continue;
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = `/static/runs/css/${name}.css`;
    await new Promise((loaded) => { link.onload = loaded; document.head.append(link); });
  }
  const holder = document.createElement("div");
  document.querySelector("main").replaceChildren(holder);
  window.stops = [];
  const stopChild = (id, body) =>
    new Promise((resolve, reject) => window.stops.push({ id, body, resolve, reject }));
  const { LogView } = await import("/static/runs/js/log.js");
  const addressOf = (id) => `/app/runs/${id}/`;
  window.log = new LogView(holder, { rootId, mayStop, stopChild, addressOf });
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
    """A log in a page, and what a test wants to know of it.

    It takes the place of the log that an earlier test has left in the page.
    """

    def __init__(self, page: Page, *, may_stop: bool = True) -> None:
        self.page = page
        if not page.url.endswith("/accounts/login/"):
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
