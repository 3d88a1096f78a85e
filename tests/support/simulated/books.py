"""What an omniscient observer knows, and what must be true of the records after each step."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from agents import registry
from agents.cancellation import StopMode
from runs.actions.recovery import CALLER_LOST
from runs.actions.stop_rows import PLANS
from runs.conf import conf
from runs.models import DataStoreEntry, RunEvent, RunInput, RunRecord, WorkerRecord
from runs.queue.limits import limits
from runs.status import ACTIVE, TERMINAL, Status
from runs.worker.started_runs import is_leaving

from .agents import Attempt
from .clock import CLOCK
from .processes import Process
from .seen import SEEN

__all__ = ["Books"]

Row = dict[str, Any]
Rows = dict[uuid.UUID, Row]
MOMENT = timedelta(
    seconds=0.5
)  # the longest time between an event and this code's reading of the clock
#: What a receipt keeps of the first request.
FIRST = ("stop_requested_at", "stop_requested_by_id", "stop_reason", "stop_via")
REMOVED_LOG = {"log_removed_at", "log_bytes"}


class Books:
    """The records, compared with what was done.

    Args:
        most_skew: the difference between the two most different clocks; limits in time are as
            exact as that.

    Attributes:
        started: the roots that people have started, with their agents.
        asked: the runs that people requested to stop, even if the answer was lost.
        accepted: those whose stop was accepted.
    """

    def __init__(self, most_skew: timedelta) -> None:
        self.started: dict[uuid.UUID, str] = {}
        self.asked: set[uuid.UUID] = set()
        self.accepted: set[uuid.UUID] = set()
        self._slack = most_skew + MOMENT
        self._attempts: dict[tuple[uuid.UUID, int], list[Attempt]] = {}
        self._ended: Rows = {}
        self._ended_at: dict[uuid.UUID, datetime] = {}  # by the true time
        self._stops: Rows = {}
        self._queued_at: dict[tuple[uuid.UUID, int], datetime] = {}

    def note_attempts(self, process: Process) -> None:
        for attempt in process.history:
            key = (attempt.entry.id, attempt.entry.attempt)
            self._attempts.setdefault(key, []).append(attempt)
        process.history.clear()

    def note_queued(self) -> None:
        queued = RunRecord.objects.filter(status=Status.QUEUED)
        for key in queued.values_list("id", "attempt"):
            self._queued_at.setdefault(key, CLOCK.time)

    def rows(self) -> Rows:
        return {row["id"]: row for row in RunRecord.objects.order_by("created_at").values()}

    # True after every step.

    def check(self) -> None:
        rows = self.rows()
        self._check_removed(rows)
        assert {id for id, row in rows.items() if row["parent_id"] is None} == set(self.started)
        alive = _alive_workers()
        self._check_logs(rows)
        self._check_limits(rows.values())
        for row in rows.values():
            try:
                self._check_row(row, rows, alive)
            except AssertionError as error:
                log = "\n".join(map(str, RunEvent.objects.filter(run=row["id"]).values_list()))
                error.add_note(f"{row}\n{self._attempts_of(row)}\n{log}")
                raise
        for attempts in self._attempts.values():
            assert len(attempts) == 1, "one claim is executed once"

    def _check_row(self, row: Row, rows: Rows, alive: set[Any]) -> None:
        parent = rows.get(row["parent_id"])
        if parent is not None and parent["status"] in TERMINAL:
            assert row["status"] in TERMINAL, "a child has outlived its caller"
        assert row["attempt"] <= row["max_attempts"]
        assert row["stop_calls_started_after_acknowledgement"] == 0
        self._check_ladder(row, parent)
        self._check_limit_stop(row)
        if row["status"] == "queued":
            assert row["in_flight"] == []
            assert row["stop_requested_at"] is None, "a run with a stop request was started"
            self._check_taken_over(row, alive)
        elif row["id"] in self._ended:
            self._check_unchanged(row)
        elif row["status"] in TERMINAL:
            self._check_ending(row, rows, alive)
            self._ended[row["id"]] = row
            self._ended_at[row["id"]] = CLOCK.time

    def _check_ladder(self, row: Row, parent: Row | None) -> None:
        """Check that a stop became no softer, its plan no later, and that its first words stay."""
        if row["stop_requested_at"] is None:
            return
        before = self._stops.get(row["id"], row)
        self._stops[row["id"]] = row
        assert all(row[name] == before[name] for name in FIRST), "the first request has changed"
        assert _rank(row) >= _rank(before), "a stop became softer"
        if row["stop_escalated_at"] != before["stop_escalated_at"]:
            assert _rank(row) > _rank(before), "an escalation to nothing harder"
            SEEN[f"escalated to {row['stop_mode']}"] += 1
            SEEN["escalated as planned"] += row["stop_escalated_by_id"] is None
        for name in PLANS.values():
            is_same = row[name] == before[name]
            is_earlier = row[name] and (before[name] is None or row[name] < before[name])
            assert is_same or is_earlier, "a plan became later"
        if parent is not None and row["status"] in ACTIVE and parent["stop_requested_at"]:
            assert _rank(row) >= _rank(parent), "a stop that is softer than that of the caller"

    def _check_limit_stop(self, row: Row) -> None:
        """Check that a limit stopped a run once, and not before it was reached."""
        if row["stop_limit"] is None:
            return
        at, kind = row["stop_requested_at"], row["stop_limit"]["kind"]
        assert row["stop_via"] == "budget"
        if kind == "wall":
            assert at >= row["deadline_at"], "stopped before its deadline"
        else:
            assert row["stop_limit"]["value"] >= row["idle_seconds"], "it was not silent for long"
        SEEN[f"reached a limit: {kind}"] += (
            row["status"] in TERMINAL and row["id"] not in self._ended
        )

    def _attempts_of(self, row: Row) -> list[Attempt]:
        """Return the attempts of its last claim: one, or none if no process has started it."""
        return self._attempts.get((row["id"], row["attempt"]), [])

    def _check_unchanged(self, row: Row) -> None:
        before = self._ended[row["id"]]
        changed = {name for name in row if row[name] != before[name]}
        if "stop_left_behind" in changed:
            changed.remove("stop_left_behind")
            now, was = row["stop_left_behind"], before["stop_left_behind"]
            assert [{**one, "ended_at": None} for one in now] == was, "it has ended, and once"
            SEEN["code that was abandoned has ended"] += 1
        assert changed <= REMOVED_LOG, f"a finished run has changed: {changed}"
        self._ended[row["id"]] = row

    def _check_logs(self, rows: Rows) -> None:
        logs: dict[uuid.UUID, list[tuple[int, str]]] = {id: [] for id in rows}
        for id, seq, type in RunEvent.objects.order_by("seq").values_list("run", "seq", "type"):
            logs[id].append((seq, type))
        for id, row in rows.items():
            if row["log_removed_at"] is not None:
                assert logs[id] == [], "a log was removed in part"
                continue
            assert [seq for seq, _ in logs[id]] == list(range(1, row["last_seq"] + 1))
            ends = [seq for seq, type in logs[id] if type == "agent_end"]
            assert ends == ([row["last_seq"]] if row["status"] in TERMINAL else [])

    def _check_limits(self, rows: Iterable[Row]) -> None:
        allowed = limits()
        by_agent, by_owner = _taken(rows)
        for agent, limit in allowed.of_agents.items():
            assert by_agent[agent] <= limit, "the limit of an agent"
        if allowed.per_owner:
            assert max(by_owner.values(), default=0) <= allowed.per_owner, "the limit of an owner"

    def _check_ending(self, row: Row, rows: Rows, alive: set[Any]) -> None:
        attempts = self._attempts_of(row)
        for attempt in attempts:
            is_over = attempt.is_over or attempt.process.state == "dead" or row["stop_abandoned"]
            # The end of this attempt: a run that was requeued may end without another attempt.
            assert is_over or attempt.entry.worker not in alive, (
                "the run has ended, and its code is running"
            )
        kinds = {attempt.kind for attempt in attempts}
        if row["status"] == "success":
            assert kinds == {"success"}, "a success, but the agent's code did not succeed"
            assert row["result"] == f"attempt {row['attempt']}"
        elif row["status"] == "stopped":
            assert self._was_asked(row, rows), "this stop was not requested"
        else:
            code = row["error"]["code"]
            if code == "unhandled_exception":
                assert kinds == {"error"}
            elif code == "queue_timeout":
                self._check_queue_timeout(row)
            else:
                assert code in {"worker_lost", "worker_shutdown"}
                self._check_taken_over(row, alive)
            SEEN[code] += 1
        SEEN[row["status"]] += 1
        SEEN["abandoned"] += row["stop_abandoned"]

    def _check_taken_over(self, row: Row, alive: set[Any]) -> None:
        """Check a run that was ended or requeued regardless of what its code has done."""
        for attempt in self._attempts_of(row):
            is_gone = attempt.process.state == "dead" or attempt.entry.worker not in alive
            # It observed a stop of its process, or one that came before its children ended.
            assert is_gone or is_leaving(attempt.entry), "its code has ended by itself"
            drains = attempt.process.worker.heartbeat.is_draining.is_set()
            is_shutdown = row["status"] == "error" and row["error"]["code"] == "worker_shutdown"
            assert drains or not is_shutdown, "no worker was shut down"

    def _was_asked(self, row: Row, rows: Rows) -> bool:
        if row["stop_reason"] == CALLER_LOST or row["stop_root_request"] in self.asked:
            return True
        reached = rows.get(row["stop_root_request"], row)["stop_limit"]  # or it was removed
        return reached is not None

    def check_accepted(self, run: uuid.UUID, process: Process | None) -> None:
        """Check a stop that was just answered; ``process`` handled the request."""
        row = RunRecord.objects.get(pk=run)
        assert row.stop_requested
        assert row.status != "queued", "a queued run has ended when the answer is sent"
        if process is None:
            return
        for attempt in process.attempts:
            entry = attempt.entry
            if (entry.id, entry.attempt) != (run, row.attempt) or entry.token.stopped:
                continue
            # Its worker was declared lost and does not know it yet: the run was queued again.
            assert entry.worker not in _alive_workers(), "the token is tripped when it is answered"
            with process.current():
                is_over = entry.token.lease.is_over
            assert is_over or not process.keeps_time, "the lease keeps the code from all calls"

    # The queue.

    def _check_queue_timeout(self, row: Row) -> None:
        limit = _queue_seconds(row["agent"])
        assert limit is not None, "there is no time limit"
        waited = CLOCK.time - self._queued_at[row["id"], row["attempt"]]
        assert waited + self._slack >= timedelta(seconds=limit), "it had time left"

    def check_claims(self, process: Process, before: Rows) -> None:
        """Check a process's claims, after it claimed everything that it could."""
        rows = self.rows()
        claimed = [
            row
            for id, row in rows.items()
            if row["status"] == "running" and before[id]["status"] == "queued"
        ]
        for row in claimed:
            waited = CLOCK.time - self._queued_at.get((row["id"], row["attempt"] - 1), CLOCK.time)
            limit = _queue_seconds(row["agent"])
            assert limit is None or waited <= timedelta(seconds=limit) + self._slack, (
                "a run was started too late"
            )
        SEEN["claims"] += len(claimed)
        if not self._takes_runs(process):
            return
        SEEN["the run exceeds a limit"] += any(
            row["status"] == "queued" and not self._may_start(row, rows) for row in rows.values()
        )
        waiting = [row for row in rows.values() if self._may_start(row, rows)]
        if process.worker.claim_loop._capacity_left() > 0:
            assert not waiting, "a slot is free, but a run waits for it"
        first = max((row["priority"] for row in waiting), default=None)
        assert first is None or all(row["priority"] >= first for row in claimed), "out of order"

    def _takes_runs(self, process: Process) -> bool:
        taking = WorkerRecord.objects.filter(pk=process.worker.id, lost_at=None, draining_at=None)
        if not taking.exists() or process.worker.is_fenced:
            return False
        return not process.worker.heartbeat.is_overdue  # it claims nothing then

    def _may_start(self, row: Row, rows: Rows) -> bool:
        if row["status"] != "queued" or _is_overdue(row, CLOCK.time + self._slack):
            return False
        allowed = limits()
        by_agent, by_owner = _taken(rows.values())
        limit = allowed.of_agents.get(row["agent"])
        if limit is not None and by_agent[row["agent"]] >= limit:
            return False
        return not allowed.per_owner or by_owner[row["owner_id"]] < allowed.per_owner

    # True after all have polled.

    def check_detected(self) -> None:
        """Check what every process was free to detect."""
        rows = self.rows()
        for row in rows.values():
            for mode, name in PLANS.items():
                is_due = row["status"] in ACTIVE and row[name] and row[name] < CLOCK.time - MOMENT
                assert not is_due or _rank(row) >= mode.rank, "a plan that was not carried out"
        for row in rows.values():
            deadline_at, is_active = row["deadline_at"], row["status"] in ACTIVE
            is_over = is_active and deadline_at is not None and deadline_at < CLOCK.time - MOMENT
            assert not is_over or row["stop_requested_at"], "its deadline is over, and it goes on"
        alive = _alive_workers()
        for row in rows.values():
            if row["status"] == "queued":
                is_overdue = _is_overdue(row, CLOCK.time - self._slack)
                assert not is_overdue, "its time in the queue is over, and it is still queued"
            if row["status"] != "running" or row["worker_id"] in alive:
                continue
            assert row["in_flight"] == [], "a run is in flight without a live lease"
            below = [r for r in rows.values() if r["parent_id"] == row["id"]]
            going_on = [r for r in below if r["status"] in ACTIVE]
            assert going_on, "its worker was lost, and it was not dealt with"
            for child in going_on:
                is_asked = child["stop_requested_at"] is not None
                assert is_asked or child["worker_id"] not in alive, (
                    "its caller was lost, and it is running"
                )

    def check_writes(self, process: Process, before: Rows) -> None:
        """Check that a recorder has written only under its own claims."""
        claims = {
            (id, attempt.entry.worker, attempt.entry.attempt)
            for (id, _), attempts in self._attempts.items()
            for attempt in attempts
            if attempt.process is process
        }
        for id, row in self.rows().items():
            if row != before[id]:
                held = (id, before[id]["worker_id"], before[id]["attempt"])
                assert held in claims, "another process has written"
                assert before[id]["status"] == "running"

    # Retention.

    def _check_removed(self, rows: Rows) -> None:
        """Check that only what is old enough was removed: whole trees, and logs."""
        options = conf()
        gone = [row for id, row in self._ended.items() if id not in rows]
        for row in gone:
            root = row["root_id"]
            assert root not in rows, "a tree was removed in part"
            assert self._is_older(root, options.keep_days), "a run was removed too early"
        SEEN["runs removed"] += len(gone)
        for row in gone:
            del self._ended[row["id"]]
            self.started.pop(row["id"], None)
        for row in rows.values():
            if row["log_removed_at"] is not None:
                SEEN["logs removed"] += self._ended[row["id"]]["log_removed_at"] is None
                days = min(options.keep_logs_days or 1e6, options.keep_days or 1e6)
                assert self._is_older(row["root_id"], days), "a log was removed too early"

    def _is_older(self, run: uuid.UUID, days: float) -> bool:
        age = CLOCK.time - self._ended_at[run]
        return age + self._slack >= timedelta(days=days)

    def check_all_removed(self) -> None:
        """Check that retention has removed everything but the data store."""
        assert not RunRecord.objects.exists()
        assert not RunEvent.objects.exists()
        assert not RunInput.objects.exists()

    def entries(self) -> list[Any]:
        return list(DataStoreEntry.objects.order_by("pk").values_list())


def _rank(row: Row) -> int:
    return StopMode(row["stop_mode"]).rank


def _alive_workers() -> set[Any]:
    return set(WorkerRecord.objects.filter(lost_at=None).values_list("pk", flat=True))


def _taken(rows: Iterable[Row]) -> tuple[Counter[str], Counter[Any]]:
    holding = [row for row in rows if row["status"] == "running" and row["holds_slot"]]
    return Counter(row["agent"] for row in holding), Counter(row["owner_id"] for row in holding)


def _queue_seconds(agent: str) -> float | None:
    return registry.get(agent).options.queue_seconds


def _is_overdue(row: Row, at: datetime) -> bool:
    return row["queue_until"] is not None and row["queue_until"] <= at
