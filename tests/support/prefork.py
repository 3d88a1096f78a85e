"""The server of `processes.py`: it imports the libraries once, and forks a child per request.

Most of the start of ``manage.py`` is imports: a second of work, the same each time. This process
does it once. It imports no module of the project and reads no setting, so that a child starts
like a fresh interpreter. It also imports nothing that starts a thread or draws a random number.

Run it as a script. Its argument is a folder for bytecode; its standard input is the socket on which
requests arrive.

A request is a message of one byte with the file descriptors of a socket, standard input, output
and error. From that socket the server reads the JSON of ``Request`` up to its end. It writes a line
with the child's pid, and after the child's end a line with its status (negative: the signal's
number).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
from typing import Any, TypedDict

# What ``manage.py runserver`` and ``runworker`` import without settings. Not uuid_utils: it would
# keep the state of its random numbers across the fork.
LIBRARIES = """
    channels.auth channels.db channels.generic.websocket channels.routing
    channels.security.websocket channels_redis.pubsub concurrent.futures.process dj_database_url
    django.contrib.admin.options django.contrib.sessions.middleware
    django.contrib.staticfiles.finders django.core.checks.security.base
    django.core.handlers.asgi django.core.management django.core.management.commands.runserver
    django.db.backends.postgresql.base django.db.backends.sqlite3.base
    django.db.migrations.autodetector django.db.migrations.executor
    django.db.migrations.questioner django.db.migrations.writer django.forms
    django.middleware.clickjacking django.middleware.common django.middleware.csrf
    django.middleware.http django.middleware.security django.template.defaulttags
    django.template.loader_tags django.test.client django.views.debug django.views.generic
    drf_spectacular.drainage h11 httpcore httpx markdown_it
    multiprocessing.queues nh3 openai prometheus_client prometheus_client.core psycopg
    psycopg_pool pydantic pydantic.networks pypdf pythonjsonlogger.json redis.asyncio requests
    rest_framework.serializers rest_framework.utils.encoders rich.console rich.live
    rich.progress sqlparse uvicorn uvicorn.protocols.http.httptools_impl webencodings
    whitenoise.middleware yaml
"""


class Request(TypedDict):
    arguments: list[str]  # of manage.py
    environment: dict[str, str]  # the complete environment
    folder: str  # the folder of manage.py, and the child's working directory
    paths: list[str]  # where modules are searched for after that folder
    new_session: bool
    descriptors: int | None  # how many files it may open: as ``ulimit -n``


class Server:
    """Forks children, and reports their ends, until the socket's other end is closed."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._children: dict[int, socket.socket] = {}  # pid: the socket for its status
        self._news, self._waker = socket.socketpair()
        self._news.setblocking(False)
        self._waker.setblocking(False)
        # Ctrl-C reaches the whole process group; the parent of this server ends the children.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # for the wakeup
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def next_request(self) -> Request | None:
        """Serve. Returns in each child, with its request; returns None in the server at its end."""
        while True:
            ready, _, _ = select.select([self._requests, self._news], [], [])
            if self._news in ready:
                with contextlib.suppress(BlockingIOError):
                    self._news.recv(4096)
                self._report_ended()
            if self._requests in ready:
                data, descriptors, _, _ = socket.recv_fds(self._requests, 1, 4)
                if not data:
                    self._kill_all()
                    return None
                if request := self._fork(*descriptors):
                    return request

    def _fork(self, answers_to: int, *streams: int) -> Request | None:
        answers = socket.socket(fileno=answers_to)
        with answers.makefile("rb") as file:
            request: Request = json.load(file)
        pid = os.fork()
        if not pid:
            if request["new_session"]:
                os.setsid()
            self._forget()
            _report(
                answers, os.getpid()
            )  # only now: a caller that knows the pid may kill its whole group
            answers.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
        for stream in streams:
            os.close(stream)
        if not pid:
            return request
        self._children[pid] = answers
        return None

    def _forget(self) -> None:
        """Close in a child everything that belongs to the server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for each in (self._requests, self._news, self._waker, *self._children.values()):
            each.close()

    def _report_ended(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            with self._children.pop(pid) as answers:
                _report(answers, os.waitstatus_to_exitcode(status))

    def _kill_all(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)


def _report(answers: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        answers.sendall(b"%d\n" % number)


def _become(request: Request, bytecode: str) -> None:
    """Turn this process into what ``python manage.py`` would be."""
    if sys.dont_write_bytecode:
        # The caller means folders of sources. Compiling the project takes half of the time left.
        sys.dont_write_bytecode = False
        sys.pycache_prefix = bytecode
    if request["descriptors"]:
        limit = request["descriptors"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[:1] = [request["folder"], *request["paths"]]
    sys.argv = ["manage.py", *request["arguments"]]
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = _stream(0, sys.stdin, is_unbuffered)
    sys.stdout = sys.__stdout__ = _stream(1, sys.stdout, is_unbuffered)
    sys.stderr = sys.__stderr__ = _stream(2, sys.stderr, is_unbuffered)


def _stream(number: int, like: Any, is_unbuffered: bool) -> Any:
    """Make a standard stream as Python does."""
    mode, size = ("wb", 0 if is_unbuffered else -1) if number else ("rb", -1)
    binary = open(number, mode, size, closefd=False)  # noqa: SIM115
    getattr(binary, "raw", binary).name = like.name
    stream: Any = io.TextIOWrapper(
        binary,
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=not is_unbuffered and (number == 2 or os.isatty(number)),
        write_through=is_unbuffered,
    )
    stream.mode = like.mode
    return stream


def _import_libraries() -> None:
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    gc.disable()
    for name in LIBRARIES.split():
        importlib.import_module(name)
    gc.enable()
    gc.freeze()  # or each child's first collection would copy all of it

    from django.conf import settings

    assert not settings.configured
    assert threading.active_count() == 1, threading.enumerate()
    assert "uuid_utils" not in sys.modules


def main() -> None:
    requests, bytecode = socket.socket(fileno=os.dup(0)), sys.argv[1]
    sys.path[0] = ""  # the folder of this script, whose modules have the same names as libraries
    _import_libraries()
    request = Server(requests).next_request()
    if request is not None:
        _become(request, bytecode)
        # What it raises ends this process as it ends a fresh one: exit status, traceback, signal.
        runpy.run_path("manage.py", run_name="__main__")


if __name__ == "__main__":
    main()
