"""The audit: what must be true of a whole database when no run is active.

``consistency`` checks each run by itself. The audit compares the runs with the agents' own
statements in a file outside the database (``site/witnesses.py``), and with the requests that the
clients made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from runs.models import RunRecord, WorkerRecord
from runs.status import Status

from .cluster import Cluster
from .consistency import assert_all_consistent

__all__ = ["assert_books_balance"]


def assert_books_balance(
    cluster: Cluster, *, started: Collection[str], asked: Collection[str] = ()
) -> list[RunRecord]:
    """Check an installation without active runs; return its runs.

    Args:
        started: the roots that clients started. The database has these roots and no others.
        asked: the runs that a user requested to stop.
    """
    starts: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for line in cluster.witnesses():
        if line["word"] in ("start", "end"):
            (starts if line["word"] == "start" else ended)[line["run"]] += 1
    with cluster.books():
        records = assert_all_consistent()
        workers = {worker.pk: worker for worker in WorkerRecord.objects.all()}
    roots = {str(record.pk) for record in records if record.parent_id is None}
    assert roots == set(started), f"lost {set(started) - roots}, unknown {roots - set(started)}"
    for record in records:
        try:
            _check(record, starts[str(record.pk)], ended[str(record.pk)], set(asked))
        except AssertionError as error:
            at = workers.get(record.worker_id) if record.worker_id else None
            error.add_note(f"{record.agent} {record.pk} {record.status} {record.error} on {at}")
            raise
    return records


def _check(record: RunRecord, starts: int, ended: int, asked: set[str]) -> None:
    assert starts <= record.attempt, "an agent's code ran more often than it was claimed"
    if record.agent.startswith("witness-") and record.status == Status.SUCCESS:
        assert ended, "the run succeeded, but its agent did not reach its end"
    if ended and not record.requeue_on_loss:
        assert ended == 1
    if record.stop_requested:
        assert record.stop_root_request is not None
        was_asked = str(record.stop_root_request) in asked or record.stop_limit is not None
        assert was_asked or record.parent_id is not None, "this stop was not requested"
    if record.status == Status.ERROR:
        assert record.error is not None
