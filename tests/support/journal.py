"""What was committed about runs, in order. Tests wait for it, and never sleep."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agents.trace import Event
from agents.wire import CallOnWire
from runs.delivery import notify
from runs.models import RunRecord

WAIT_SECONDS = 40.0  # shared machines are slow; only a test that fails waits this long


class Journal:
    """Keeps every committed event of this process: a ``notify.Listener``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.texts: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def event(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        with self._changed:
            self.texts.append((run, text))
            self._changed.notify_all()

    def activity(self, run: str, in_flight: list[CallOnWire]) -> None:
        pass

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        pass

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition()``; it is checked after each commit."""
        with self._changed:
            if not self._changed.wait_for(condition, WAIT_SECONDS):
                lines = [f"{e.run[-6:]} {e.seq} {e.type} {e.data}" for e in self.events[-20:]]
                tail = "\n".join(lines)
                raise AssertionError(f"waited {WAIT_SECONDS:g} s for {what}; the last:\n{tail}")

    def of(self, run: RunRecord | uuid.UUID | str, type: str | None = None) -> list[Event]:
        id = _id(run)
        return [e for e in list(self.events) if e.run == id and type in (None, e.type)]

    def until_event(self, run: RunRecord | uuid.UUID, type: str, **data: Any) -> Event:
        """Wait for an event of ``run`` with at least these ``data``; return the first."""

        def found() -> Iterator[Event]:
            return (e for e in self.of(run, type) if data.items() <= e.data.items())

        self.until(lambda: any(found()), f"{type} {data} of {run}")
        return next(found())

    def until_event_of_agent(
        self, agent: str, type: str, *, after: RunRecord | None = None
    ) -> Event:
        """Wait for an event of any run of ``agent`` (of one that is younger than ``after``)."""
        than = _id(after) if after is not None else ""  # UUIDv7: later ones are greater

        def found() -> Iterator[Event]:
            return (
                e for e in list(self.events) if (e.agent, e.type) == (agent, type) and e.run > than
            )

        self.until(lambda: any(found()), f"{type} of a run of {agent}")
        return next(found())

    def until_at_work(self, count: int) -> None:
        """Wait until ``count`` runs have logged "at work"."""

        def at_work() -> int:
            return sum(event.data.get("message") == "at work" for event in self.events)

        self.until(lambda: at_work() == count, f"{count} runs at work")

    def until_over(self, *runs: RunRecord | uuid.UUID) -> list[RunRecord]:
        """Wait until these runs have ended; return their records."""
        ids = {_id(run) for run in runs}
        self.until(lambda: ids <= self.ended(), f"the end of {len(ids)} runs")
        return [RunRecord.objects.get(pk=_id(run)) for run in runs]

    def over(self, run: RunRecord | uuid.UUID) -> RunRecord:
        """Wait until ``run`` has ended; return its record."""
        return self.until_over(run)[0]

    def ended(self) -> set[str]:
        return {e.run for e in list(self.events) if e.type == "agent_end"}

    def order_of_ends(self) -> list[str]:
        """Return the agents of the finished runs, in the order of their ends."""
        return [e.agent for e in list(self.events) if e.type == "agent_end"]


@contextmanager
def journal() -> Iterator[Journal]:
    listener = Journal()
    notify.add_listener(listener)
    try:
        yield listener
    finally:
        notify.remove_listener(listener)


def eventually(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Poll until ``condition()``, for conditions that no event announces."""
    pause = threading.Event()
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s until {what}"
        pause.wait(0.005)


def _id(run: RunRecord | uuid.UUID | str) -> str:
    return str(run.pk if isinstance(run, RunRecord) else run)
