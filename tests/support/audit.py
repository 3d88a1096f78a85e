"""The audit of the books: what must be true of a whole database once nothing runs any more.

``consistency`` looks at each run by itself. Here the runs are held against what their agents have
said of themselves outside the program's books (``site/witnesses.py``), and against who asked for
what.
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
    """Check a quiet installation; return its runs.

    Args:
        started: the roots that were started, as their clients know them: these, and no others.
        asked: those that a user asked to stop.
    """
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for line in cluster.witnesses():
        if line["word"] in ("begin", "end"):
            (begun if line["word"] == "begin" else ended)[line["run"]] += 1
    with cluster.books():
        records = assert_all_consistent()
        workers = {worker.pk: worker for worker in WorkerRecord.objects.all()}
    roots = {str(record.pk) for record in records if record.parent_id is None}
    assert roots == set(started), f"lost {set(started) - roots}, doubled {roots - set(started)}"
    for record in records:
        try:
            _check(record, begun[str(record.pk)], ended[str(record.pk)], set(asked))
        except AssertionError as error:
            at = workers.get(record.worker_id) if record.worker_id else None
            error.add_note(f"{record.agent} {record.pk} {record.status} {record.error} on {at}")
            raise
    return records


def _check(record: RunRecord, begun: int, ended: int, asked: set[str]) -> None:
    assert begun <= record.attempt, "an agent's code was run more often than it was claimed"
    if record.agent.startswith("witness-") and record.status == Status.SUCCESS:
        assert ended, "a success, and its agent never came to its end"
    if ended and not record.requeue_on_loss:
        assert ended == 1
    if record.stop_requested:
        assert record.stop_root_request is not None
        was_asked = str(record.stop_root_request) in asked
        assert was_asked or record.parent_id is not None, "no one has requested this stop"
    if record.status == Status.ERROR:
        assert record.error is not None
