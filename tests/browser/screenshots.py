"""Make the pictures in docs/screenshots: ``python -m tests.browser.screenshots``.

The project as it is delivered, with its sample agents, and a model that says what is told here and
waits where a picture wants it to. Nothing but times and ids differs from one day to the next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.support.browser import TIMEOUT_MILLISECONDS, Complaints, People, launch
from tests.support.llm_server import Answer, LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import ROOT, Installation, Server

FOLDER = ROOT / "docs" / "screenshots"

_PARAGRAPH = (
    "The ship left the harbour at dawn, with forty men and flour for ninety days. The captain"
    " kept to the coast as far as the cape, where the wind turned, and from there nobody aboard"
    " had a chart that he trusted. They took soundings every hour and wrote them down.\n\n"
)


def logbook(year: int) -> str:
    """A document in four parts; of another year another one, since notes are kept and found."""
    return "".join(f"Day {day} of {year}. {_PARAGRAPH}" for day in range(1, 160))


NOTES = (
    "Departure at dawn with forty men. Flour for ninety days. The captain keeps to the coast.",
    "At the cape the wind turns. No chart beyond it can be trusted; soundings every hour.",
    "A storm: two men lost, the mainmast gone, and the log kept all the same.",
    "Landfall on day 141. The harbour master does not believe their position.",
)
WRITING = (
    "The third part tells of the storm. Two men are lost, the mainmast goes over the side, and"
)
SUMMARY = """\
A ship leaves harbour with **forty men** and supplies for ninety days.

1. As far as the cape the captain keeps to the coast.
2. Beyond it no chart can be trusted, so they sound every hour.
3. A storm costs two men and the mainmast; the log is kept all the same.

They make land on day 141, at a place that the harbour master does not believe.
"""


class Studio:
    """A server, a browser and a model that poses."""

    def __init__(self, server: Server, model: LLMServer, people: People) -> None:
        self.server = server
        self.model = model
        self.page = people.open()
        self.dark = people.open(dark=True)
        self.desk = people.open("admin", reduced_motion="reduce")
        self.phone = people.open(phone=True)

    def take(self, name: str, page: Page | None = None) -> None:
        page = page or self.page
        page.mouse.move(0, 0)
        path = FOLDER / f"{name}.png"
        page.screenshot(path=path, animations="disabled", caret="hide")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} kB")

    def begin(self, agent: str, **input: object) -> RunScreen:
        return RunScreen.of(self.page, self.server.start(agent, **input))

    def reading_along(self, parts: int = 2) -> RunScreen:
        """A summary with ``parts`` parts noted, while the model writes the note on the next."""
        self.model.answers.extend(Answer(text=note) for note in NOTES[:parts])
        self.model.answers.append(Answer(pieces=[WRITING, " the log is kept all the same."]))
        self.model.hold()
        screen = self.begin("summarise", document=logbook(1822))
        for number in range(parts):
            expect(screen.lines.filter(has_text="LLM")).to_have_count(number)
            expect(screen.in_flight("LLM")).to_be_visible()
            self.model.let_go()
        expect(screen.lines.filter(has_text="LLM")).to_have_count(parts)
        expect(screen.in_flight("LLM")).to_be_visible()
        self.model.let_go("middle")
        expect(screen.written).to_contain_text("mainmast")
        return screen


def take_all(studio: Studio) -> None:
    finished_runs(studio)
    forms(studio)
    a_stop(studio)
    a_tree(studio)
    lists(studio)


def finished_runs(studio: Studio) -> None:
    """A result, and an error."""
    server, model = studio.server, studio.model
    model.answers.extend(Answer(text=note) for note in NOTES)
    model.answer = Answer(text=SUMMARY)
    screen = studio.begin("summarise", document=logbook(1821))
    screen.expect_status("success", "Done")
    screen.panel("Result")
    studio.take("done")

    no = {"error": {"message": "This model's maximum context length is 2048 tokens."}}
    model.answers.append(Answer(status=400, body=no))
    screen = studio.begin("merge_notes", notes=list(NOTES))
    screen.expect_status("error", "Error")
    studio.take("error")
    server.until(server.start("count_words", text=logbook(1821), top=5), "success")


def forms(studio: Studio) -> None:
    page = studio.page
    page.goto("/app/agents/summarise/")
    page.locator("textarea[data-path=document]").fill(logbook(1821)[:500])
    page.locator("h1").click()
    studio.take("agent")


def a_stop(studio: Studio) -> None:
    """Running, stopping, offered more, stopped; in the dark and on a phone as well."""
    screen = studio.reading_along()
    studio.take("running")
    for page in (studio.dark, studio.phone):
        other = RunScreen.of(page, screen.id)
        expect(other.lines.filter(has_text="LLM")).to_have_count(2)
    studio.take("running-dark", studio.dark)
    screen.stop.click()
    screen.expect_stopping()
    studio.take("stopping")
    RunScreen(studio.phone).expect_stopping()
    studio.take("stopping-phone", studio.phone)
    screen.expect_offer("Stop now (cuts the call in flight)", "kept as far as it has come")
    studio.take("stop-now")
    studio.model.release()
    screen.expect_status("stopped", "Stopped")
    screen.panel("Receipt")
    studio.take("stopped")


def a_tree(studio: Studio) -> None:
    """Three agents below one, one of them stopped alone."""
    model = studio.model
    model.answer = Answer(pieces=[NOTES[1][:48], NOTES[1][48:]])
    model.hold()
    count = model.request_count
    letters = ["A letter from the captain.", "The harbour master's book.", "A sailor's diary."]
    screen = studio.begin("compare", documents=letters)
    model.wait_for_requests(count + 3)
    expect(screen.in_flight("LLM")).to_have_count(3)
    model.let_go("middle")
    expect(screen.written).to_have_count(3)
    first = screen.log.locator("section.group section.group").first
    first.get_by_role("button", name="Stop summarise").click()
    expect(first.locator(".chip")).to_have_text("Stopping...")
    studio.take("tree")
    model.release()
    screen.expect_status("success", "Done")


def lists(studio: Studio) -> None:
    model, page = studio.model, studio.page
    model.hold()
    studio.server.start("summarise", document=logbook(1823))
    stopping = studio.server.start("summarise", document=logbook(1824)[:3000])
    for id in studio.server.client.get("/runs").json()["results"][:2]:
        studio.server.until_it_works(id["id"])
    studio.server.client.post(f"/runs/{stopping}/stop")
    for name, address in (("home", "/app/"), ("runs", "/app/runs/")):
        page.goto(address)
        expect(page.locator(f"main [data-run='{stopping}']").first).to_be_visible()
        studio.take(name)
    the_desk(studio, stopping)
    model.release()


def the_desk(studio: Studio, stopping: str) -> None:
    """The admin: the list, the page before many are stopped, and a run."""
    desk, address = studio.desk, "/admin/runs/runrecord/"
    desk.goto(address)
    expect(desk.locator("#result_list tr").filter(has_text="Stopping...").first).to_be_visible()
    studio.take("admin-runs", desk)
    for box in desk.locator("#result_list input.action-select").all()[:4]:
        box.check()
    desk.locator("select[name=action]").select_option("stop_selected")
    desk.get_by_role("button", name="Go").click()
    expect(desk.locator(".stop-sum")).to_be_visible()
    studio.take("admin-stop", desk)
    desk.goto(f"{address}{stopping}/change/")
    expect(desk.locator("#log .line").first).to_be_visible()
    studio.take("admin-run", desk)


@contextmanager
def studio() -> Iterator[Studio]:
    with (
        tempfile.TemporaryDirectory() as folder,
        LLMServer() as model,
        sync_playwright() as playwright,
    ):
        expect.set_options(timeout=TIMEOUT_MILLISECONDS)
        installation = Installation(
            Path(folder),
            DJANGO_SETTINGS_MODULE="project.settings",
            LLM_BASE_URL=model.base_url,
            LLM_API_KEY="none",
            LLM_MODEL="llama3",
        )
        with installation.serving() as server:
            complaints = Complaints()
            yield Studio(server, model, People(launch(playwright), server.url, complaints))
            complaints.assert_none()


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    with studio() as ready:
        take_all(ready)
