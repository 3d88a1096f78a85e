"""A small real HTTP proxy on 127.0.0.1: requests with a whole address, and CONNECT tunnels."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

__all__ = ["ForwardProxy", "make_certificate"]

WAIT_SECONDS = 10.0


class ForwardProxy:
    """``with ForwardProxy(hosts={"model.internal": server.port}) as proxy:`` and ``proxy.url``.

    Args:
        hosts: name -> the port on 127.0.0.1 where it is. The proxy knows no other name.
        user, password: that it wants; none if they are "".
        tls: makes it an https proxy.

    Attributes:
        requests: the method and the target of each request that it let through.
        refused_count: requests without the right user and password.
    """

    def __init__(
        self,
        hosts: Mapping[str, int],
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        self.refused_count = 0
        self._hosts = hosts
        self._scheme = "https" if tls else "http"
        self._tls = tls
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._wanted = f"Basic {pair}" if user else ""
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="forward-proxy", daemon=True)

    def url(self, user_and_password: str = "") -> str:
        at = f"{user_and_password}@" if user_and_password else ""
        return f"{self._scheme}://{at}127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_SECONDS), "the proxy did not start"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        server = self._loop.run_until_complete(serving)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the last one: the proxy is stopping
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in map(_divided, lines)}
        if self._wanted and headers.get("proxy-authorization") != self._wanted:
            self.refused_count += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        address = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = self._hosts.get(address.hostname or "")
        if port is None:
            writer.write(b"HTTP/1.1 502 Unknown Host\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        self.requests.append((method, target))
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                own = [line for line in lines if not line.lower().startswith(("proxy-", "conn"))]
                own = [f"{method} {address.path} HTTP/1.1", *own, "Connection: close"]
                upstream.write(("\r\n".join(own) + "\r\n\r\n").encode("latin-1"))
            pipes = [
                asyncio.ensure_future(_pipe(reader, upstream)),
                asyncio.ensure_future(_pipe(upstream_reader, writer)),
            ]
            try:
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            upstream.transport.abort()


def _divided(line: str) -> tuple[str, str, str]:
    return line.partition(":")


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts for a server with a certificate of its own, and for a client that trusts it.

    The names in it are 127.0.0.1 and model.internal.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=model.internal"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:model.internal"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate, key)
    return serving, ssl.create_default_context(cafile=str(certificate))
