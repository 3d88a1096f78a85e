"""The page of one run, in the words of somebody who looks at it."""

from __future__ import annotations

import re
import uuid
from typing import Self

from playwright.sync_api import Locator, Page, expect

__all__ = ["RunScreen"]

_ADDRESS = re.compile(r"/app/runs/([0-9a-f-]{36})/")


class RunScreen:
    """What is on the page of a run; the page may still be on its way there.

    A page that shows the same in another frame says where: ``PATH``, ``MAIN``.

    Attributes:
        stop: the big Stop, whatever it reads at present.
        lines: of the log, in every run of the tree.
    """

    PATH = "/app/runs/{id}/"
    MAIN = "main#main"

    def __init__(self, page: Page) -> None:
        self.page = page
        self.main = page.locator(self.MAIN)
        self.heading = self.main.get_by_role("heading", level=1)
        self.chip = page.locator("#run-chip")
        self.stop = self.main.get_by_role("button", name=re.compile(r"^(Stop|Stopping\.\.\.)$"))
        self.again = self.main.get_by_role("button", name="Run again")
        self.stop_line = page.locator("#stop-line")
        self.harder = page.locator("#harder")  # the button of the stop that is offered next
        self.harder_effect = page.locator("#harder-effect")
        self.stop_plan = page.locator("#stop-plan")
        self.question = page.get_by_role("dialog")
        self.connection = page.locator("#connection")
        self.log = page.locator("#log")
        self.lines = self.log.locator(".line[data-seq]")
        self.written = self.log.locator(".live-text")

    @classmethod
    def of(cls, page: Page, id: str) -> Self:
        """Open a run's page."""
        page.goto(cls.PATH.format(id=id))
        return cls(page)

    @property
    def id(self) -> str:
        """The run that the page shows, by its address."""
        self.page.wait_for_url(_ADDRESS)
        found = _ADDRESS.search(self.page.url)
        assert found
        return str(uuid.UUID(found[1]))

    def expect_status(self, status: str, label: str = "") -> None:
        """Wait until the page shows the run in ``status``, by the chip's ``label`` too."""
        expect(self.main).to_have_attribute("data-status", status)
        if label:
            expect(self.chip).to_have_text(re.compile(rf"^\s*{re.escape(label)}\s*$"))

    def expect_stop_to_be_offered(self) -> None:
        expect(self.stop).to_be_enabled()
        expect(self.stop).to_have_text(re.compile(r"^\s*Stop\s*$"))

    def expect_stopping(self) -> None:
        """Wait for all that says that the run is stopping: chip, button, line."""
        self.expect_status("stopping", "Stopping...")
        expect(self.stop).to_be_disabled()
        expect(self.stop).to_have_text(re.compile(r"^\s*Stopping\.\.\.\s*$"))
        expect(self.stop_line).to_contain_text("Stopping...")

    def expect_offer(self, words: str, effect: str) -> None:
        """Wait for the harder stop, and for the sentence beside it."""
        expect(self.harder).to_be_visible()
        expect(self.harder).to_have_text(re.compile(rf"^\s*{re.escape(words)}\s*$"))
        expect(self.harder_effect).to_contain_text(effect)

    def line(self, text: str | re.Pattern[str]) -> Locator:
        return self.lines.filter(has_text=text)

    def in_flight(self, kind: str) -> Locator:
        """The calls of a kind (LLM, Store, ...) that are going on."""
        return self.log.locator(".line.live").filter(
            has=self.page.locator(".line-kind", has_text=re.compile(f"^{kind}$"))
        )

    def group(self, agent: str) -> Locator:
        """The part of the log that belongs to a run of ``agent``."""
        return self.log.get_by_role("region", name=agent, exact=True)

    def panel(self, name: str) -> Locator:
        """Turn to a tab, and return what it shows.

        The log is above the tabs. While it fills, it moves them, and a click between the two
        positions is lost.
        """
        expect(self.log.get_by_role("log")).not_to_have_attribute("aria-busy", "true")
        self.page.get_by_role("tab", name=name).click()
        panel = self.page.locator(f"#panel-{name.lower()}")
        expect(panel).to_be_visible()
        return panel

    def seqs(self, run: str) -> list[int]:
        """Return the numbers of a run's lines, from top to bottom."""
        return list(
            self.page.evaluate(
                """run => [...document.querySelectorAll("#log .line[data-seq]")]
                    .filter(line => line.closest("[data-run]").dataset.run === run)
                    .map(line => Number(line.dataset.seq))""",
                run,
            )
        )
