"""The feed's queries, for the hub's threads, and the pages of logs that readers share."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.utils import timezone

from runs import events
from runs.conf import conf
from runs.models import RunEvent, RunInput, RunRecord, Scope
from runs.status import TERMINAL, Status
from runs.wire import (
    LARGE,
    NOTHING_LARGE,
    RESULTS,
    RunOnWire,
    for_wire,
    read_tree_usage,
    run_as_dict,
)
from runs.wording.receipt import calls_waited_for
from runs.wording.run import Words, present

from .frames import LARGE_CHARACTERS, Frame, FrameType, Shared, View, to_json

__all__ = [
    "PAGE_COUNT",
    "Fingerprint",
    "LogPages",
    "Snapshot",
    "active_runs",
    "fingerprints",
    "read_active",
    "read_events",
    "read_input",
    "read_listed",
    "read_over",
    "read_snapshots",
    "read_trees",
]

PAGE_COUNT = 500  # events that are read at a time
MOST_CHARACTERS = 2_000_000  # of events that are read at a time
MOST_PAGES_CHARACTERS = 16_000_000  # of log pages kept, of all runs together
LATE_SECONDS = 2.0  # a heartbeat may be late by this without its worker being called silent
_WAITED_FOR_COUNT = 50  # events after a stop that are searched for the calls it waited for

_RECEIPT = (
    *("status", "attempt", "worker_id"),
    *("stop_requested_at", "stop_mode", "stop_acknowledged_at", "stop_observed_at"),
    *("stop_abort_at", "stop_abandon_at"),
)
#: A run, and the first and last event of a page of its log.
_Page = tuple[uuid.UUID, int, int]
_ACTIVITY = ("in_flight", "llm_calls", "input_tokens", "output_tokens", "usage_estimated")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Values of a run's row: if they differ, the run has something new."""

    receipt: list[Any]
    activity: list[Any] = field(default_factory=list)
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run's record at one moment.

    Attributes:
        run: as it goes over the wire, without its input.
        waited_for: the calls that its stop had to wait for, once it is over.
        silent_seconds: what is left of the lease of a worker that gives no sign of life.
        is_partial: it has a partial result, which ``run`` may leave out.
    """

    id: uuid.UUID
    root: uuid.UUID
    owner_id: Any
    run: RunOnWire
    waited_for: tuple[dict[str, Any], ...] = ()
    silent_seconds: int | None = None
    is_partial: bool = False
    _frames: dict[View, Frame] = field(default_factory=dict, compare=False, repr=False)

    @property
    def last_seq(self) -> int:
        return int(self.run["last_seq"])

    @property
    def is_over(self) -> bool:
        return self.run["status"] in TERMINAL

    def says_the_same_as(self, other: Snapshot | None) -> bool:
        """Tell whether the two differ in nothing but what other frames have."""
        return (
            other is not None
            and self.silent_seconds == other.silent_seconds
            and _apart_from_frames(self.run) == _apart_from_frames(other.run)
        )

    def words(self, zone: str, run: Mapping[str, Any] | None = None) -> Words:
        """Return what a screen says of it, or of ``run``, the same run a moment later."""
        return present(
            {"partial_result": self.is_partial or None, **(run or self.run)},
            zone=zone,
            waited_for=self.waited_for,
            lease_seconds=self.silent_seconds,
        )

    def with_current(self, current: Mapping[str, Any]) -> dict[str, Any]:
        """Return the run with fields that are newer than the record.

        What the run itself has used since is added to its tree's. What the runs below it have used
        since is in their own frames.
        """
        run: dict[str, Any] = {**self.run, **current}
        now, then, tree = run["usage"], self.run["usage"], self.run["usage_tree"]
        if now != then:
            counts = ("llm_calls", "input_tokens", "output_tokens")
            added = {name: tree[name] + now[name] - then[name] for name in counts}  # type: ignore[literal-required]
            run["usage_tree"] = {**added, "estimated": tree["estimated"] or now["estimated"]}
        return run

    def frame(
        self,
        type: FrameType,
        view: View,
        input_json: str | None,
        current: Mapping[str, Any] | None = None,
    ) -> Frame:
        """Return the run as a frame, with what is newer than the record."""
        run = self.with_current(current or {})
        if view.is_page:
            words = to_json(self.words(view.zone, run))
            data = to_json(run)
            if len(data) > LARGE_CHARACTERS:  # the page has the server draw it
                data = to_json({key: value for key, value in run.items() if key not in LARGE})
            return Frame(type, data, words)
        data = to_json(run)
        return Frame(type, Shared(f'{{"input":{input_json},{data[1:]}' if input_json else data))

    def list_frame(self, view: View) -> Frame:
        """Return the run as a frame of the list, the same for all readers with that view."""
        if view not in self._frames:
            self._frames[view] = self.frame("run", view, None)
        return self._frames[view]


def _apart_from_frames(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: v for k, v in run.items() if k not in {"last_seq", "in_flight", "usage", "usage_tree"}
    }


def read_snapshots(ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Snapshot]:
    """Return the runs that exist, as they are now."""
    runs = for_wire(RunRecord.objects.filter(pk__in=ids), RESULTS)
    read_tree_usage(runs)
    return {run.pk: _snapshot(run, RESULTS) for run in runs}


def read_listed(ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Snapshot]:
    """Return the runs that exist, as they are now, without the large fields."""
    return {one.id: one for one in _listed(RunRecord.objects.filter(pk__in=ids))}


def _listed(runs: QuerySet[RunRecord]) -> list[Snapshot]:
    is_partial = ExpressionWrapper(Q(partial_result__isnull=False), BooleanField())
    found = for_wire(runs, NOTHING_LARGE).annotate(is_partial=is_partial)
    read_tree_usage(found)
    return [_snapshot(run, NOTHING_LARGE, is_partial=run.is_partial) for run in found]


def _snapshot(record: RunRecord, large: Collection[str], *, is_partial: bool = False) -> Snapshot:
    return Snapshot(
        record.pk,
        record.root_id,
        record.owner_id,
        run_as_dict(record, large),
        _waited_for(record),
        _silent_seconds(record),
        is_partial,
    )


def _waited_for(record: RunRecord) -> tuple[dict[str, Any], ...]:
    if record.status != Status.STOPPED or record.stop_acknowledged_at is None:
        return ()
    after = RunEvent.objects.filter(run=record, ts__gt=record.stop_acknowledged_at)
    log = [event.as_dict() for event in after.order_by("seq")[:_WAITED_FOR_COUNT]]
    stop = {"acknowledged_at": record.stop_acknowledged_at}
    return tuple(dict(call) for call in calls_waited_for(log, stop))


def _silent_seconds(record: RunRecord) -> int | None:
    """Return what is left of the lease, if a stopping run's worker gives no sign of life."""
    if not record.stop_requested or record.is_terminal or record.worker is None:
        return None
    now = timezone.now()
    if (now - record.worker.heartbeat_at).total_seconds() < conf().lease.renew_every + LATE_SECONDS:
        return None
    return max(0, int((record.worker.lease_until - now).total_seconds()))


def read_active(scope: Scope, limit: int) -> list[Snapshot]:
    """Return the runs that a user may see and that are not over, the oldest first."""
    runs = RunRecord.objects.active().within(scope).order_by("-created_at", "-id")
    return _listed(runs[:limit])[::-1]


def read_input(id: uuid.UUID) -> str | None:
    """Return the input of a run as JSON; None if the run was deleted."""
    found = RunInput.objects.filter(pk=id).values_list("value", flat=True)
    return next((to_json(value) for value in found), None)


def read_over(ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Return which of the runs are over, or were deleted."""
    active = RunRecord.objects.active().filter(pk__in=ids).order_by()
    return set(ids) - set(active.values_list("pk", flat=True))


def read_events(id: uuid.UUID, first: int, last: int) -> list[str]:
    """Return the events ``first`` to ``last`` of a run as shared JSON, as far as there are any.

    Fewer, if they are very large; at least one.
    """
    found = events.read_as_json(
        id, after=first - 1, limit=last - first + 1, most_characters=MOST_CHARACTERS
    )
    return [Shared(event) for event in found]


def fingerprints(ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Fingerprint]:
    """Return the fingerprints of the runs that exist."""
    rows = RunRecord.objects.filter(pk__in=ids).values_list("pk", "last_seq", *_RECEIPT, *_ACTIVITY)
    count = len(_RECEIPT)
    return {id: Fingerprint(rest[:count], rest[count:], seq) for id, seq, *rest in rows}


def read_trees(roots: Collection[uuid.UUID]) -> dict[uuid.UUID, dict[uuid.UUID, uuid.UUID | None]]:
    """Return the runs of whole trees, each with its caller: root -> {run: parent}."""
    trees: dict[uuid.UUID, dict[uuid.UUID, uuid.UUID | None]] = {root: {} for root in roots}
    rows = RunRecord.objects.filter(root__in=roots).values_list("root_id", "pk", "parent_id")
    for root, id, parent in rows.order_by("depth", "pk"):
        trees[root][id] = parent
    return trees


def active_runs(since: datetime, limit: int) -> dict[uuid.UUID, Fingerprint]:
    """Return the fingerprints of runs that are not over, and of those created after ``since``."""
    names = (
        *("status", "worker_id", "stop_requested_at", "stop_mode"),
        *("stop_acknowledged_at", "stop_observed_at"),
    )
    found: dict[uuid.UUID, Fingerprint] = {}
    for runs in (RunRecord.objects.active(), RunRecord.objects.filter(created_at__gte=since)):
        rows = runs.order_by("-created_at", "-id").values_list("pk", *names)[:limit]
        found |= {id: Fingerprint(rest) for id, *rest in rows}
    return found


class LogPages:
    """The pages of logs that were read last, for all readers whom no tail can serve.

    Whole pages never change, and are kept: two hundred readers of one log read it once.

    Args:
        read: calls a function that reads the database.
    """

    def __init__(self, read: Callable[..., Awaitable[list[str]]]) -> None:
        self._read = read
        self._pages: OrderedDict[_Page, list[str]] = OrderedDict()
        self._characters = 0
        #: Readers share these tasks, so cancelling one would end them all without a word.
        self.reading: dict[_Page, asyncio.Task[list[str]]] = {}

    async def events(self, run: uuid.UUID, after: int, last_seq: int) -> list[str]:
        """Return some of a run's events after ``after`` as JSON; the run has ``last_seq``."""
        first = after - after % PAGE_COUNT + 1
        key = (run, first, min(first + PAGE_COUNT - 1, last_seq))
        page = self._pages.get(key)
        if page is None:
            page = await self._page(key)
        else:
            self._pages.move_to_end(key)
        found = page[after + 1 - first :]
        if not found and last_seq > after:  # events so large that the page was cut
            found = await self._read(read_events, run, after + 1, after + PAGE_COUNT)
        return found

    async def _page(self, key: _Page) -> list[str]:
        task = self.reading.get(key)
        if task is None:
            task = self.reading[key] = asyncio.ensure_future(self._read(read_events, *key))
            task.add_done_callback(lambda _: self.reading.pop(key, None))
        page = await asyncio.shield(task)
        if len(page) == PAGE_COUNT and key not in self._pages:
            self._pages[key] = page
            self._characters += sum(map(len, page))
            while self._characters > MOST_PAGES_CHARACTERS:
                _, oldest = self._pages.popitem(last=False)
                self._characters -= sum(map(len, oldest))
        return page
