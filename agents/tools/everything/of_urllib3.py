"""Guard the requests of urllib3, and so those of requests, botocore and others built on it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from agents.guard import Guard, carried, carrying, current_guard
from agents.process.own_threads import COMPUTING
from agents.process.threads import waiting
from agents.tools.http.admission import Admitted, admit
from agents.tools.http.bodies import check, forget_open, note_open
from agents.tools.http.traceparent import additional_header
from agents.tools.llm.traffic.recognise import asked_of

from .replacing import Replacements

__all__ = ["guard_urllib3"]


def guard_urllib3(library: Any, replacements: Replacements) -> None:
    """Guard ``library``, urllib3."""
    replacements.replace(library.HTTPConnectionPool, "urlopen", _guarded)
    replacements.replace(library.connection.HTTPConnection, "getresponse", _cuttable)


def _guarded(send: Any) -> Any:
    def urlopen(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        guard = current_guard()
        if guard is None:
            return send(self, method, url, body, headers, *args, **options)
        if (call := carrying()) is not None:  # another try, or a redirect: a new start
            guard.check(call.tool, call.label)
            return send(self, method, url, body, headers, *args, **options)
        asked = asked_of(method, url.partition("?")[0], body)
        given = self.headers if headers is None else headers  # as urllib3 does
        known = {_text(name).lower(): _text(value) for name, value in given.items()}
        admitted = admit(guard, method, self.host, asked, known)
        call = admitted.call
        assert call is not None
        if more := additional_header(known, self.host, call.guard):
            headers = given.copy()
            headers.update(more)
        is_wanted = options.get("preload_content", True)
        if is_wanted:  # the body is read below, where an abort can cut it
            options = {**options, "preload_content": False, "release_conn": False}
        try:
            with waiting(), carried(call):
                response = send(self, method, url, body, headers, *args, **options)
        except BaseException as error:
            if admitted.guard is not None:
                call.finish(error)
            raise
        if admitted.guard is not None:
            admitted.note_head(response.status, response.headers.get("content-type", ""))
            _Body(guard, admitted, response)
        if is_wanted:
            _ = response.data
        return response

    return urlopen


def _cuttable(wait: Any) -> Any:
    def getresponse(self: Any) -> Any:
        call = carrying()
        if call is None:
            return wait(self)
        with call.cut_in_thread(lambda: _shut_down(self.sock)):
            return wait(self)

    return getresponse


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _shut_down(opened: Any) -> None:
    """Wake the thread that waits for a socket; see ``http.sockets``."""
    if isinstance(opened, socket.socket):
        with suppress(OSError):
            socket.socket.shutdown(opened, socket.SHUT_RDWR)


class _Body:
    """The body of a response, in flight until it is read or closed."""

    def __init__(self, guard: Guard, admitted: Admitted, response: Any) -> None:
        assert admitted.call is not None
        self._guard = guard
        self._call = admitted.call
        self._watching = admitted.watching
        self._response = response
        self._depth = 0  # of methods that read, and call each other
        self._is_over = self._is_to_end = False
        note_open(guard, self)
        self._read, self._read1 = response.read, getattr(response, "read1", None)
        self._read_chunked = response.read_chunked
        self._close, self._release = response.close, response.release_conn
        response.read, response.read_chunked = self._reading(self._read), self._pieces
        if self._read1 is not None:
            response.read1 = self._reading(self._read1)
        response.close, response.release_conn = (
            self._ending(self._close),
            self._ending(self._release),
        )

    def _reading(self, read: Any) -> Any:
        def reading(*args: Any, **options: Any) -> Any:
            return self._one(lambda: read(*args, **options))

        return reading

    def _pieces(self, *args: Any, **options: Any) -> Iterator[bytes]:
        pieces = self._read_chunked(*args, **options)
        while (piece := self._one(lambda: next(pieces, None))) is not None:
            yield piece

    def _one(self, read: Callable[[], Any]) -> Any:
        if self._is_over or self._depth:
            return read()
        self._depth += 1
        connection = self._response.connection
        opened = getattr(connection, "sock", None)
        try:
            check(self._call)
            with (
                waiting(),
                carried(self._call),
                self._call.cut_in_thread(lambda: _shut_down(opened)),
            ):
                data = read()
        except BaseException as error:
            self._depth -= 1
            self._end(error)
            with suppress(Exception):
                self._close()
            raise
        self._depth -= 1
        if data and self._watching is not None:
            self._watching.feed(data)
        if self._is_to_end or not data:
            self._end()
        return data

    def _ending(self, then: Callable[[], Any]) -> Callable[[], Any]:
        def end() -> Any:
            if self._depth:
                self._is_to_end = True
            else:
                self._end()
            return then()

        return end

    def _end(self, error: BaseException | None = None) -> None:
        if self._is_over:
            return
        self._is_over = True
        forget_open(self._guard, self)
        if self._watching is not None and error is None and self._response.isclosed():
            self._watching.close()
        self._call.finish(error)

    async def close_for_good(self) -> None:
        """Close at the run's end."""
        if self._depth:
            return  # a thread reads it, and is refused at the next piece
        with suppress(Exception):
            await COMPUTING.run(self._response.close)
