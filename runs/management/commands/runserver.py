"""`manage.py runserver`: the whole project in one process, sockets and worker included."""

from __future__ import annotations

import functools
import ipaddress
import socket
import sysconfig
from argparse import ArgumentParser
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from runs.conf import conf
from runs.management.listening import address_to_open, listen, resolve
from runs.management.prerequisites import await_database, require_production_settings
from runs.ops.accounts import DemoUser, find_open_demo_users
from runs.ops.serving import ReloadingSupervisor, configuration, serve, serve_reloaded
from runs.web.addresses import exists, prefix

_WITH_STATIC_FILES = "runs.management.static_files.application"


class Command(BaseCommand):
    help = (
        "Serve HTTP and sockets, and run agents, in one process. Reloads in debug mode. "
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
            help="don't restart when a source file changes (outside debug mode it never does)",
        )
        parser.add_argument(
            "--nostatic",
            action="store_false",
            dest="use_static_handler",
            help="don't serve static files (outside debug mode it never does)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            require_production_settings()
            await_database(self.stdout.write)
        try:
            self.check_migrations()
        except DatabaseError as error:
            raise CommandError(f"The database (DATABASE_URL) doesn't answer: {error}") from error
        open_users: list[DemoUser] = []
        if settings.DEBUG:
            with suppress(DatabaseError):  # there may be no tables yet
                open_users = find_open_demo_users()
        listener = _bind(options["addrport"], options["use_ipv6"], open_users)
        for connection in connections.all(initialized_only=True):
            connection.close()

        self._greet(listener, open_users)
        has_static_files = options["use_static_handler"] and _serves_static_files()
        application = _WITH_STATIC_FILES if has_static_files else settings.ASGI_APPLICATION
        if settings.DEBUG and options["use_reloader"]:
            self._serve_reloaded(application, listener)
        else:
            serve(configuration(application), [listener])

    def _serve_reloaded(self, application: str, listener: socket.socket) -> None:
        config = configuration(application, reload=True, reload_dirs=_source_directories())
        target = functools.partial(serve_reloaded, config)
        ReloadingSupervisor(config, target=target, sockets=[listener]).run()

    def _greet(self, listener: socket.socket, open_users: list[DemoUser]) -> None:
        llm = conf().llm
        model = (
            "the built-in stand-in, which is no real model (LLM_BASE_URL, LLM_API_KEY set one)"
            if llm.is_stand_in
            else f"{llm.model or 'as each call says'} at {llm.base_url or 'the SDK’s own address'}"
        )
        address = address_to_open(listener)
        self.stdout.write(f"Halting is at {self.style.SUCCESS(address)} (Ctrl-C to stop)")
        pages = address.rstrip("/") + prefix()
        if exists("halting:api-docs"):
            self.stdout.write(f"  API docs  {pages}api/docs")
        if pages != address:
            self.stdout.write(f"  agents    {pages}app/")
        if open_users:
            self.stdout.write(f"  users     {', '.join(map(str, open_users))}")
        self.stdout.write(f"  model     {model}")
        self.stdout.flush()


def _serves_static_files() -> bool:
    """Tell whether runserver is to serve them, as Django's own does in debug mode."""
    nostatic = "whitenoise.runserver_nostatic"  # says that WhiteNoise's middleware does
    is_installed = apps.is_installed("django.contrib.staticfiles")
    return settings.DEBUG and is_installed and not apps.is_installed(nostatic)


def _bind(addrport: str, use_ipv6: bool, open_users: list[DemoUser]) -> socket.socket:
    """Open the listening socket; the port 0 takes any free one.

    Raises:
        CommandError: the address is malformed, taken or not of this machine, or others can reach
            it while users with public passwords exist.
    """
    address = resolve(addrport, use_ipv6=use_ipv6)
    host = address[1][0].partition("%")[0]  # without the zone that IPv6 may add
    if open_users and not ipaddress.ip_address(host).is_loopback:
        names = " and ".join(map(str, open_users))
        raise CommandError(
            f"The passwords of {names} are public, so in debug mode this server listens only on "
            "this machine (127.0.0.1). To be reached from elsewhere, change them "
            "(manage.py changepassword NAME) or delete these users. For a server that others "
            "use, unset DJANGO_DEBUG."
        )
    return listen(addrport, address)


def _folder_of(package: str) -> Path:
    return Path(str(import_module(package).__file__)).parent


def _source_directories() -> list[str]:
    """Return the folders of the project and of its apps, without those of installed packages."""
    packages = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    site = _folder_of(settings.ROOT_URLCONF.partition(".")[0])
    candidates = [site, *(Path(app.path) for app in apps.get_app_configs())]
    sources = {
        path.resolve()
        for path in candidates
        if path.is_dir() and not any(path.is_relative_to(package) for package in packages)
    }
    # An app inside another one (agents.samples) is watched with it.
    return sorted(str(path) for path in sources if not sources.intersection(path.parents))
