"""Agents that use Django's ORM, in each way that reaches it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User

from agents import SyncTools, Tools, agent


def count() -> int:
    return User.objects.count()


def _in_own_thread(work: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def _in_own_pool() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(count).result()


async def _acount() -> int:
    return await User.objects.acount()


async def _iterate() -> int:
    return len([user async for user in User.objects.aiterator(chunk_size=1)])


async def _leave_generator() -> int:
    async for _ in User.objects.aiterator(chunk_size=1):
        return await User.objects.acount()
    return 0


SYNC: dict[str, Callable[[], int]] = {
    "def": count,
    "thread": lambda: _in_own_thread(count),
    "thread with context": lambda: _in_own_thread(partial(contextvars.copy_context().run, count)),
    "pool": _in_own_pool,
    "async_to_sync": lambda: async_to_sync(_acount)(),
    "asyncio.run": lambda: asyncio.run(User.objects.acount()),
    "asyncio.run to_thread": lambda: asyncio.run(asyncio.to_thread(count)),
}
ASYNC: dict[str, Callable[[], Any]] = {
    "to_thread": lambda: asyncio.to_thread(count),
    "sync_to_async": lambda: sync_to_async(count)(),
    "not thread_sensitive": lambda: sync_to_async(count, thread_sensitive=False)(),
    "run_in_executor": lambda: asyncio.get_running_loop().run_in_executor(None, count),
    "async ORM": User.objects.acount,
    "async generator": _iterate,
    "async generator left": _leave_generator,
}


@agent("site-orm")
async def orm(tools: Tools, ways: list[str], again_file: str = "") -> list[int]:
    """Count users; with ``again_file``, a second time when that file is there."""
    found = [await ASYNC[way]() for way in ways]
    if again_file:
        tools.log("counted")
        while not Path(again_file).exists():
            await asyncio.sleep(0.05)
        found += [await ASYNC[way]() for way in ways]
    return found


@agent("site-orm-def")
def orm_def(tools: SyncTools, ways: list[str], again_file: str = "") -> list[int]:
    found = [SYNC[way]() for way in ways]
    if again_file:
        tools.log("counted")
        while not Path(again_file).exists():
            time.sleep(0.05)
        found += [SYNC[way]() for way in ways]
    return found
