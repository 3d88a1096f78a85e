"""Logs, read from the table in whole pages, which all who read slowly or come late share."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from . import reading
from .reading import PAGE_COUNT
from .tail import RunTail

__all__ = ["LogPages"]

MOST_PAGES_CHARACTERS = 16_000_000  # of log pages kept, of all runs together


class LogPages:
    """The pages that were read last.

    Args:
        read: calls a function that reads the database.
    """

    def __init__(self, read: Callable[..., Awaitable[list[str]]]) -> None:
        self._read = read
        self._pages: OrderedDict[tuple[uuid.UUID, int], list[str]] = OrderedDict()
        self._characters = 0
        #: What is being read. Not to be cancelled: it would take its readers along, in silence.
        self.reading: dict[tuple[uuid.UUID, int, int], asyncio.Task[list[str]]] = {}

    async def events(self, tail: RunTail, after: int) -> list[str]:
        """Return some of a run's events behind ``after``, from the table, as JSON.

        Two hundred readers of one log read it once: whole pages never change, and are kept.
        """
        number = after // PAGE_COUNT
        page = self._pages.get((tail.id, number))
        if page is None:
            page = await self._page(tail, number)
        else:
            self._pages.move_to_end((tail.id, number))
        found = page[after - number * PAGE_COUNT :]
        if not found and tail.last_seq > after:  # events so large that the page was cut
            found = await self._read(reading.read_events, tail.id, after + 1, after + PAGE_COUNT)
        return found

    async def _page(self, tail: RunTail, number: int) -> list[str]:
        key = (tail.id, number, tail.last_seq)
        task = self.reading.get(key)
        if task is None:
            first = number * PAGE_COUNT + 1
            work = self._read(reading.read_events, tail.id, first, first + PAGE_COUNT - 1)
            task = self.reading[key] = asyncio.ensure_future(work)
            task.add_done_callback(lambda _: self.reading.pop(key, None))
        page = await asyncio.shield(task)
        if len(page) == PAGE_COUNT and (tail.id, number) not in self._pages:
            self._keep(tail.id, number, page)
        return page

    def _keep(self, id: uuid.UUID, number: int, page: list[str]) -> None:
        self._pages[id, number] = page
        self._characters += sum(map(len, page))
        while self._characters > MOST_PAGES_CHARACTERS:
            _, oldest = self._pages.popitem(last=False)
            self._characters -= sum(map(len, oldest))
