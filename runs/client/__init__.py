"""Start, read, wait for, follow and stop runs from the site's own code; see docs/python-api.md.

It calls the services that the API's views call, and adds no rule to them. It works in any process
of the site: a web process, a task queue's worker, a command, a shell, a test.

Functions that touch the database have a twin for async code, with an ``a`` before the name as in
Django's ORM. ``await`` is a word of Python's, so the twin of ``wait`` is ``until_over``.

Without a user a call is the site's own: no permission is checked, and the requester of a stop is
none. Its ``via`` is ``api``: it came from a program, as by HTTP.
"""

from .calls import (
    Start,
    Started,
    aget,
    astart,
    astart_many,
    astop,
    get,
    start,
    start_many,
    stop,
)
from .following import Stream, stream, until_over, wait

__all__ = [
    "Start",
    "Started",
    "Stream",
    "aget",
    "astart",
    "astart_many",
    "astop",
    "get",
    "start",
    "start_many",
    "stop",
    "stream",
    "until_over",
    "wait",
]
