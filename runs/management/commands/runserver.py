"""`manage.py runserver`: the whole project in one process, sockets and worker included."""

from __future__ import annotations

import errno
import functools
import ipaddress
import re
import socket
import sysconfig
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import uvicorn
from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from runs.conf import conf
from runs.demo_users import DemoUser, find_open_demo_users
from runs.server import ReloadingSupervisor, serve, serve_reloaded

# Django's syntax: 8000, 127.0.0.1:8000, [::1]:8000, name:8000; and its shorthand 0:8000.
_ADDRPORT = re.compile(
    r"(?:(?P<host>\d{1,3}(?:\.\d{1,3}){3}|\[(?P<ipv6>[a-fA-F0-9:.]+)\]"
    r"|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*):)?(?P<port>\d{1,5})"
)

# Open sockets and event streams would hold the exit up for ever.
_GRACEFUL_SECONDS = 3

# Of one message from a client. Nothing that it could say is of interest.
_MOST_SOCKET_BYTES = 4096

_BIND_ERRORS = {
    errno.EACCES: "you don't have permission for that port",
    errno.EADDRINUSE: "that port is already in use",
    errno.EADDRNOTAVAIL: "that address is not one of this machine's",
}


class Command(BaseCommand):
    help = (
        "Serve HTTP and sockets, and run agents, in one process. Reloads in debug. "
        "SIGTERM and Ctrl-C drain first; a second one leaves at once."
    )
    suppressed_base_arguments = {"--verbosity", "--traceback"}

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "addrport", nargs="?", default="8000", help="port, address:port or [IPv6]:port"
        )
        parser.add_argument(
            "--ipv6", "-6", action="store_true", dest="use_ipv6", help="use an IPv6 address"
        )
        parser.add_argument(
            "--noreload",
            action="store_false",
            dest="use_reloader",
            help="don't restart when a source file changes (never done outside debug)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            _require_production_settings()
        self._warn_about_migrations()
        open_users = self._find_open_users()
        listener = _bind(options["addrport"], options["use_ipv6"], open_users)
        for connection in connections.all(initialized_only=True):
            connection.close()

        self._greet(listener, open_users)
        if settings.DEBUG and options["use_reloader"]:
            self._serve_reloaded(listener)
        else:
            serve(_config(), [listener])

    def _serve_reloaded(self, listener: socket.socket) -> None:
        config = _config(reload=True, reload_dirs=_source_directories())
        target = functools.partial(serve_reloaded, config)
        ReloadingSupervisor(config, target=target, sockets=[listener]).run()

    def _warn_about_migrations(self) -> None:
        try:
            self.check_migrations()
        except DatabaseError as error:
            raise CommandError(f"The database (DATABASE_URL) doesn't answer: {error}") from error

    def _find_open_users(self) -> list[DemoUser]:
        if not settings.DEBUG:
            return []
        try:
            return find_open_demo_users()
        except DatabaseError:
            # Not migrated yet: there are no users at all.
            return []

    def _greet(self, listener: socket.socket, open_users: list[DemoUser]) -> None:
        llm = conf().llm
        model = (
            "the built-in stand-in, which is no real model (LLM_BASE_URL, LLM_API_KEY set one)"
            if llm.is_stand_in
            else f"{llm.model or 'as each call says'} at {llm.base_url or 'the SDK’s own address'}"
        )
        address = _address_to_open(listener)
        self.stdout.write(f"Halting is at {self.style.SUCCESS(address)} (Ctrl-C to stop)")
        self.stdout.write(f"  API docs  {address}api/docs")
        if open_users:
            self.stdout.write(f"  users     {', '.join(map(str, open_users))}")
        self.stdout.write(f"  model     {model}")
        self.stdout.flush()


def _require_production_settings() -> None:
    """Say at once what would otherwise fail at start-up or at the first request.

    Raises:
        CommandError: DJANGO_ALLOWED_HOSTS or DJANGO_SECRET_KEY is not set.
    """
    if not settings.ALLOWED_HOSTS:
        raise CommandError("Set DJANGO_ALLOWED_HOSTS (or, on your own machine, DJANGO_DEBUG=1).")
    if settings.SECRET_KEY.startswith("django-insecure-"):
        raise CommandError("Set DJANGO_SECRET_KEY (or, on your own machine, DJANGO_DEBUG=1).")


def _config(**options: Any) -> uvicorn.Config:
    module, _, name = settings.ASGI_APPLICATION.rpartition(".")
    return uvicorn.Config(
        f"{module}:{name}",
        lifespan="on",
        # settings.LOGGING has it all.
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
        # Compressing anew for each reader took half as much time again, and 40 KiB of each.
        ws_per_message_deflate=False,
        ws_max_size=_MOST_SOCKET_BYTES,
        **options,
    )


def _bind(addrport: str, use_ipv6: bool, open_users: list[DemoUser]) -> socket.socket:
    """Open the listening socket; the port 0 takes any free one.

    Raises:
        CommandError: the address is malformed, taken or foreign, or it can be reached from
            elsewhere while users with well-known passwords exist.
    """
    match = _ADDRPORT.fullmatch(addrport)
    if match is None or int(match["port"]) > 65535:
        raise CommandError(f"{addrport!r} is not a valid port number or address:port pair.")
    host, port = match["ipv6"] or match["host"], int(match["port"])
    use_ipv6 = use_ipv6 or match["ipv6"] is not None
    if host is None:
        host = "::1" if use_ipv6 else "127.0.0.1"
    family = socket.AF_INET6 if use_ipv6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"Can't listen on {addrport}: {error.strerror}.") from error
    address = found[0][4]

    if open_users and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        names = " and ".join(str(user) for user in open_users)
        raise CommandError(
            f"Everybody knows the passwords of {names}, so in debug this server listens only on "
            "this machine (127.0.0.1). To be reached from elsewhere, change them "
            "(manage.py changepassword NAME) or delete these users; for a server that others "
            "use, unset DJANGO_DEBUG."
        )

    # The protocol by its name, not 0: asyncio switches Nagle's algorithm off only for sockets that
    # say that they are TCP, and with it each answer on a connection in use waits for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # From here on a client waits for the start, and during a reload, instead of failing.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise CommandError(f"Can't listen on {addrport}: {reason}.") from error
    listener.set_inheritable(True)
    return listener


def _address_to_open(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/"


def _source_directories() -> list[str]:
    """Return where to watch: the installed apps that aren't installed packages, and the project."""
    packages = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    settings_package = Path(str(settings.BASE_DIR)) / settings.ROOT_URLCONF.partition(".")[0]
    candidates = [settings_package, *(Path(app.path) for app in apps.get_app_configs())]
    sources = {
        path.resolve()
        for path in candidates
        if path.is_dir() and not any(path.is_relative_to(package) for package in packages)
    }
    # An app inside another one (agents.samples) is watched with it.
    return sorted(str(path) for path in sources if not sources.intersection(path.parents))
