"""Clients that guess passwords or tokens, each on a connection of its own, as fast as they may.

A process of its own: ``python -m bench.flood PORT SECONDS CONNECTIONS DOOR ...``. It connects to
loopback only, and prints how often each status was answered. ``bench.logins`` and the attack tests
use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator

__all__ = ["DOORS"]

_CSRF = "a" * 32
_FORM = f"csrfmiddlewaretoken={_CSRF}&username={{name}}&password=wrong&next=/"
_COOKIES = f"Cookie: csrftoken={_CSRF}; __Host-csrftoken={_CSRF}\r\n"


def _post(path: str, type: str, body: str, headers: str = "") -> str:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {type}\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


def _form(path: str) -> Callable[[str], str]:
    type = "application/x-www-form-urlencoded"
    return lambda name: _post(path, type, _FORM.format(name=name), _COOKIES)


def _get(path: str, headers: str = "") -> Callable[[str], str]:
    return lambda name: f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers.format(name)}\r\n"


def _by_password(name: str) -> str:
    body = json.dumps({"username": name, "password": "wrong"})
    return _post("/api-token", "application/json", body)


#: Name -> a request by the name of a user who does not exist.
DOORS: dict[str, Callable[[str], str]] = {
    "api-token": _by_password,
    "login": _form("/accounts/login/"),
    "admin-login": _form("/admin/login/"),
    "wrong-token": _get("/runs", f"Authorization: Token {'{0:0>64}'}\r\n"),
    "basic": _get("/runs", "Authorization: Basic {0}\r\n"),
    "session": _get("/runs", "Cookie: sessionid={0:a>32}; __Host-sessionid={0:a>32}\r\n"),
    "admin": _get("/admin/runs/runrecord/"),
}


async def _guess(port: int, door: str, names: Iterator[int], seen: Counter[str]) -> None:
    while True:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(DOORS[door](f"stranger{next(names)}").encode())
                    seen[f"{door} {await _status(reader)}"] += 1
            finally:
                writer.close()


async def _status(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.lower().split("\r\n")
    lengths = [int(line[15:]) for line in lines if line.startswith("content-length:")]
    if lengths:
        await reader.readexactly(lengths[0])
    else:  # chunked, to the last chunk
        await reader.readuntil(b"0\r\n\r\n")
    return head.split(" ", 2)[1]


async def _main(port: int, seconds: float, count: int, doors: list[str]) -> None:
    seen: Counter[str] = Counter()
    names = itertools.count()
    clients = [_guess(port, doors[i % len(doors)], names, seen) for i in range(count)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*clients)
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
