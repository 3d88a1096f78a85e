"""Answer when a run is over, without a thread and a database connection until then.

On the event loop a wait costs a future: the feed's hub tells of the end. Where there is no loop,
under WSGI or Django's test client, the request's thread waits (``delivery.ends``).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.http import Http404
from rest_framework.exceptions import NotAuthenticated

from runs.db.alias import connection
from runs.delivery.ends import is_leaving
from runs.web import feed
from runs.web.feed import Place, RightLost, Viewer
from runs.web.late import Answer, LateResponse
from runs.web.rendering import JsonRenderer
from runs.wire import get_for_wire, run_as_dict

from .errors import exception_handler

__all__ = ["answer_when_over"]

P = ParamSpec("P")

#: Read the runs of answers. Few, so that a thousand waits that end together leave connections.
_threads = ThreadPoolExecutor(4, thread_name_prefix="runs-answers")


def answer_when_over(viewer: Viewer, seconds: float, place: Place) -> LateResponse:
    """Answer with a run when it is over, or after ``seconds``: 200 or 202.

    The place is given back when the wait ends. A user who loses the right to see the run meanwhile
    is answered 401 or 404.
    """
    return LateResponse(partial(_decide, viewer, seconds, place), JsonRenderer.media_type)


async def _decide(viewer: Viewer, seconds: float, place: Place) -> Answer:
    assert viewer.run is not None
    is_over = False
    try:
        if not is_leaving():
            is_over = await feed.get_hub().until_over(viewer, seconds)
    except RightLost as lost:
        if lost.why == "not_authenticated":
            return await _in_thread(_refuse, NotAuthenticated())
        if lost.why != "restart":
            return await _in_thread(_refuse, Http404())
    finally:
        place.leave()
    return await (_final(viewer.run) if is_over else _in_thread(_write, viewer.run))


async def _final(run: uuid.UUID) -> Answer:
    """Read a run that is over, once for all that wait for it."""
    loop = asyncio.get_running_loop()
    reading = _reading.setdefault(loop, {})
    task = reading.get(run)
    if task is None:
        task = reading[run] = asyncio.ensure_future(_in_thread(_write, run))
        task.add_done_callback(lambda _: reading.pop(run, None))
    return await asyncio.shield(task)


_reading: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[uuid.UUID, asyncio.Future[Answer]]]
_reading = WeakKeyDictionary()


async def _in_thread(work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
    call = sync_to_async(work, thread_sensitive=False, executor=_threads)
    return await call(*args, **kwargs)


def _write(run: uuid.UUID) -> Answer:
    try:
        record = get_for_wire(run)
        content = JsonRenderer().render(run_as_dict(record))
        return Answer(200 if record.is_terminal else 202, content)
    except Exception as error:
        return _refuse(error)
    finally:
        connection.close()


def _refuse(error: Exception) -> Answer:
    """Answer an error as the API's views do."""
    response = exception_handler(error, {})
    if response is None:
        raise error
    headers = {"WWW-Authenticate": "Token"} if response.status_code == 401 else {}
    if "Retry-After" in response.headers:
        headers["Retry-After"] = response.headers["Retry-After"]
    return Answer(response.status_code, JsonRenderer().render(response.data), headers)
