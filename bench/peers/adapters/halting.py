"""Ours: runs in PostgreSQL, messages over Redis, one event loop; a stop is cooperative."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import django
from django.core.management import call_command

from bench.peers import jobs
from bench.site import fresh_cluster


def _declare() -> None:
    from agents import Tools, agent, check_should_stop

    async def look() -> None:
        check_should_stop()

    @agent("first")
    async def first(tools: Tools, key: str) -> None:
        await jobs.first_line(key)

    @agent("loop")
    async def loop(tools: Tools, key: str) -> None:
        await jobs.waits(key, 0.001, look)

    @agent("wait")
    async def wait(tools: Tools, key: str) -> None:
        await jobs.waits(key, 1.0, look)

    @agent("checks")
    async def checks(tools: Tools, key: str) -> None:
        jobs.check_cost(key, check_should_stop)


class adapter:
    most_in_flight = 10_000
    has_records = True
    has_threads = False
    checks = True

    def prepare(self) -> None:
        self._site = fresh_cluster()
        self._user = self._site.__enter__()
        _declare()

    def start(self, job: str, key: str) -> Any:
        from runs.actions import starting

        return starting.start_run(job, {"key": key}, owner=self._user)[0].pk

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        from runs.actions import starting

        ids: list[Any] = []
        for first in range(0, len(keys), starting.MOST_STARTS):
            some = keys[first : first + starting.MOST_STARTS]
            starts = [starting.Start(job, {"key": key}) for key in some]
            outcomes = starting.start_many(starts, owner=self._user)
            ids += [one.run.pk for one in outcomes if one.run is not None]
        return ids

    def stop(self, id: Any) -> None:
        from runs.actions import stopping
        from runs.models import StopVia

        stopping.request_stop(id, via=StopVia.API, by=self._user)

    def stop_many(self, ids: Sequence[Any]) -> None:
        from runs.actions import stopping
        from runs.models import StopVia

        stopping.stop_many(ids, by=self._user, via=StopVia.API)

    def is_over(self, id: Any) -> bool:
        from runs.models import RunRecord

        return not RunRecord.objects.active().filter(pk=id).exists()

    def close(self) -> None:
        self._site.__exit__(None, None, None)


def work(concurrency: int) -> None:
    os.environ["RUNS_MAX_CONCURRENT"] = str(concurrency)
    django.setup()
    _declare()
    from runs.worker import descriptors

    descriptors.PER_RUN = 1  # these agents open no connections, and the usual limit is 20,000
    call_command("runworker")
