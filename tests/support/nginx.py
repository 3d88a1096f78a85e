"""The example of deploy/nginx in a real nginx, with its own ports and certificate."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .server import ROOT, eventually

__all__ = ["HOST", "Proxy", "find_nginx", "proxying"]

HOST = "halting.example.org"  # as in the example
FOLDER = ROOT / "deploy" / "nginx"

_MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/halting.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running nginx."""

    port: int  # with TLS
    plain_port: int

    @property
    def trust(self) -> ssl.SSLContext:
        """Return what a client without certificates of its own must trust."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextmanager
def proxying(folder: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """Let nginx pass requests on to web processes on ``ports`` until the block ends."""
    nginx, openssl = find_nginx(), shutil.which("openssl")
    if nginx is None or openssl is None:
        pytest.skip("needs nginx and openssl")
    proxy = Proxy(_free_port(), _free_port())
    _write(folder, proxy, ports, openssl)
    log = folder / "nginx.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: _answers(proxy.port) or process.poll() is not None, "nginx listens")
        assert process.poll() is None, log.read_text()
        yield proxy
    finally:
        process.terminate()
        process.wait(10)


def _write(folder: Path, proxy: Proxy, ports: Sequence[int], openssl: str) -> None:
    """Write the example with other ports, paths and processes; the rest is unchanged."""
    example = (FOLDER / "halting.conf").read_text()
    server = re.compile(r"( *server 127\.0\.0\.1:)\d+( .*\n)")
    first = server.search(example)
    assert first is not None
    example = server.sub("", example)
    servers = "".join(f"{first[1]}{port}{first[2]}" for port in ports)
    example = example[: first.start()] + servers + example[first.start() :]
    for old, new in (
        ("listen [::]:80;", ""),
        ("listen [::]:443 ssl http2;", ""),
        ("listen 80;", f"listen 127.0.0.1:{proxy.plain_port};"),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{proxy.port} ssl http2;"),
        (f"/etc/letsencrypt/live/{HOST}/fullchain.pem", f"{folder}/certificate.pem"),
        (f"/etc/letsencrypt/live/{HOST}/privkey.pem", f"{folder}/key.pem"),
        ("/etc/nginx/halting-locations.conf", str(FOLDER / "halting-locations.conf")),
    ):
        assert example.count(old) == 1, old
        example = example.replace(old, new)
    # Another user could not write into the tests' folder.
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "halting.conf").write_text(example)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user))
    subject = ("-subj", f"/CN={HOST}", "-days", "1", "-nodes")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    files = ("-keyout", f"{folder}/key.pem", "-out", f"{folder}/certificate.pem")
    subprocess.run(
        [openssl, "req", "-x509", *key, *subject, *files],
        check=True,
        capture_output=True,
        timeout=30,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
