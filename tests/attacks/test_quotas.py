"""One user tries to fill the queue and the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from agents import Tools, agent
from runs.actions import starting
from runs.exceptions import QuotaExceeded
from runs.models import DataStoreEntry, OwnerUsage, RunRecord
from runs.quotas import keeper, ledger
from tests.support.journal import Journal
from tests.support.running import Start

pytestmark = pytest.mark.usefixtures("on_both_databases")

AT_ONCE = 8


@pytest.fixture
def hoarder() -> None:
    @agent("hoarder")
    async def hoarder(tools: Tools, text: str = "") -> str:
        kept = 0
        try:
            for number in range(200):
                tools.log("x" * 1_000)
                await tools.data_store.set(f"key {number}", "y" * 1_000)
                kept += 1
        finally:
            tools.log(f"kept {kept}")
        return "the result " + "z" * 5_000


def _starts(count: int, start: Callable[[], Any]) -> tuple[int, set[str]]:
    """Start at the same moment from several threads; return how many were let in, and why not."""
    gate = threading.Barrier(AT_ONCE)
    codes: set[str] = set()

    def call(share: int) -> int:
        gate.wait(10)
        started = 0
        for _ in range(share):
            try:
                start()
                started += 1
            except QuotaExceeded as error:
                codes.add(error.code)
        connection.close()
        return started

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(call, [count // AT_ONCE] * AT_ONCE)), codes


def test_parallel_starts_get_exactly_the_room_in_the_queue(
    alice: User, bob: User, options: Callable[..., None], hoarder: None
) -> None:
    options(MAX_QUEUED_PER_OWNER=10)
    let_in, codes = _starts(96, lambda: starting.start_run("hoarder", {}, owner=alice))
    assert (let_in, codes) == (10, {"quota_queued"})
    assert RunRecord.objects.filter(owner=alice).count() == 10
    starting.start_run("hoarder", {}, owner=bob)  # others are not concerned


def test_parallel_starts_get_exactly_the_room_in_bytes(
    alice: User, options: Callable[..., None], hoarder: None
) -> None:
    options(MAX_STORED_BYTES_PER_OWNER=105_000)
    text = "x" * 9_000  # and a kilobyte for the record of the run
    let_in, codes = _starts(96, lambda: starting.start_run("hoarder", {"text": text}, owner=alice))
    assert (let_in, codes) == (10, {"quota_stored"})


def test_a_run_that_fills_the_disk_is_cut_and_ends_as_it_would(
    start: Start, options: Callable[..., None], hire: Any, log: Journal, hoarder: None
) -> None:
    options(MAX_STORED_BYTES_PER_OWNER=30_000)
    hire()
    run = start("hoarder")
    (ended,) = log.until_over(run)
    assert ended.status == "error"
    assert ended.error["code"] == "quota_stored"
    assert "Nothing was written" in ended.error["message"]
    types = [event.type for event in ended.events.order_by("seq")]
    assert types[-1] == "agent_end"
    assert "error" in types
    ledger.flush()
    used = OwnerUsage.objects.get().stored_bytes
    keeper.measure()
    assert OwnerUsage.objects.get().stored_bytes == used  # all was counted
    assert used < 4 * 30_000  # what was logged until the recorder had written and counted it
    assert DataStoreEntry.objects.count() < 30
    with pytest.raises(QuotaExceeded) as refused:
        start("hoarder", text="x" * 30_000)
    assert refused.value.code == "quota_stored"
