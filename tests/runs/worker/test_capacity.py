"""How many runs a process can hold, by its file descriptors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from agents import Tools, agent
from runs.actions import leases
from runs.delivery.local_runs import ActiveRun
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import descriptors
from runs.worker.capacity import Capacity
from runs.worker.worker import Worker
from tests.support.rows import make_worker
from tests.support.running import Start
from tests.support.server import eventually


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what the system reports: ``system(limit=1024, used=40)``."""
    values = {"limit": 1024, "used": 40}
    monkeypatch.setattr(descriptors, "raise_limit", lambda: values["limit"])
    monkeypatch.setattr(descriptors, "open_count", lambda: values["used"])
    return values.update


class TestDescriptors:
    def test_open_descriptors_are_counted(self) -> None:
        before = descriptors.open_count()
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
        assert descriptors.open_count() == before + 10
        for file in files:
            os.close(file)
        assert descriptors.open_count() == before

    def test_the_soft_limit_is_raised_to_the_hard_one(self) -> None:
        code = (
            "import resource; from runs.worker import descriptors\n"
            "print(descriptors.raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
        )
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for given, expected in (
            (f"ulimit -Sn 200; ulimit -Hn {hard}", hard),
            ("ulimit -n 200", 200),
        ):
            command = ["bash", "-c", f'{given}; exec "$@"', "-", sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert done.stdout.split() == [str(expected)] * 2

    @pytest.mark.parametrize(
        ("limit", "used", "runs"),
        [(1024, 40, 428), (256, 40, 76), (1 << 20, 40, 524_204), (1024, 900, 0), (64, 60, 0)],
    )
    def test_some_are_reserved_for_everything_else(self, limit: int, used: int, runs: int) -> None:
        assert descriptors.enough_for(limit, used) == runs


class TestCapacity:
    def test_is_the_setting_if_there_are_enough_descriptors(
        self, system: Callable[..., None]
    ) -> None:
        system(limit=20_000)
        capacity = Capacity(1000)
        assert (capacity.total, capacity.limited_by) == (1000, "")
        assert (capacity.left(0), capacity.left(990), capacity.left(1000)) == (1000, 10, 0)

    def test_is_what_the_descriptors_allow_if_there_are_not_enough(
        self, system: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        capacity = Capacity(1000)
        assert (capacity.total, capacity.limited_by) == (428, "1,024 file descriptors")
        assert capacity.left(0) == 428
        (record,) = caplog.records
        assert "takes 428 runs at a time, not 1000 (RUNS_MAX_CONCURRENT)" in record.getMessage()
        assert "LimitNOFILE" in record.getMessage()

    def test_shrinks_as_descriptors_are_used_and_logs_it_once(
        self, system: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        system(limit=2000)
        capacity = Capacity(100)
        system(used=1850)
        assert capacity.left(10) == 11
        for used in (1872, 1999, 2000):
            system(used=used)
            assert capacity.left(10) == 0
        assert capacity.limited_by == "2,000 file descriptors, nearly all of them in use"
        system(used=1870)  # one that has ended does not end the shortage
        assert capacity.left(10) == 1
        assert "nearly all" in capacity.limited_by
        system(used=1000)
        assert (capacity.left(10), capacity.limited_by) == (90, "")
        messages = [record.getMessage().partition(":")[0] for record in caplog.records]
        assert messages == ["takes no more runs for now", "takes runs again"]

    def test_is_never_zero_for_an_idle_worker(self, system: Callable[..., None]) -> None:
        system(limit=64, used=60)
        capacity = Capacity(1000)
        assert (capacity.total, capacity.left(0), capacity.left(1)) == (1, 1, 0)


@pytest.mark.usefixtures("transactional_db")
def test_a_worker_records_its_limit_and_continues_when_it_can(
    system: Callable[..., None], hire: Callable[..., Worker], start: Start
) -> None:
    @agent("plain")
    async def plain(tools: Tools) -> None: ...

    system(limit=2000)
    worker = hire()

    def row() -> Any:
        return WorkerRecord.objects.get(pk=worker.id)

    assert (row().capacity, row().limited_by) == (916, "2,000 file descriptors")
    system(used=1999)
    here = ActiveRun(uuid.uuid4(), worker.id)
    worker.executor._roots.add(here)  # a run is here, and holds them
    run = start("plain")
    eventually(lambda: "nearly all" in row().limited_by)
    assert RunRecord.objects.get(pk=run.pk).status == Status.QUEUED
    system(used=40)
    worker.executor._roots.discard(here)
    eventually(lambda: RunRecord.objects.get(pk=run.pk).status == Status.SUCCESS)
    assert row().limited_by == "2,000 file descriptors"


def test_a_limit_is_recorded(transactional_db: None) -> None:
    worker = make_worker()
    leases.note_capacity(worker.pk, 3, "x")
    worker.refresh_from_db()
    assert (worker.capacity, worker.limited_by) == (3, "x")
