"""`manage.py runworker`: a process that runs agents and serves nothing but its own health.

It replaces the command of this name that Channels ships, which takes its work from messages.
"""

from __future__ import annotations

import socket
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.core.management.base import BaseCommand

from runs.conf import conf, override
from runs.db.alias import connection
from runs.delivery.relay import is_shared
from runs.management.listening import address_to_open, listen, resolve
from runs.management.prerequisites import (
    await_database,
    require_migrations,
    require_production_settings,
)
from runs.ops.serving import configuration, serve
from runs.process.names import process_name


class Command(BaseCommand):
    help = (
        "Run agents, without the site. Any number of workers may share one database. "
        "SIGTERM and Ctrl-C drain first; a second one leaves at once."
    )
    suppressed_base_arguments = {"--verbosity", "--traceback"}

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--listen",
            default=conf().worker_listen,
            metavar="HOST:PORT",
            help="where /health and /metrics are served; the port 0 is any free one "
            "(RUNS_WORKER_LISTEN, now %(default)s)",
        )
        parser.add_argument(
            "--max-concurrent",
            type=_count,
            default=conf().max_concurrent,
            metavar="COUNT",
            help="runs at a time (RUNS_MAX_CONCURRENT, now %(default)s)",
        )

        parser.add_argument(
            "--replace-when-blocked",
            type=_seconds,
            default=conf().replace_when_blocked_seconds,
            metavar="SECONDS",
            help="drain and exit when abandoned code has blocked the agents for so long, so that a "
            "supervisor starts a fresh process (RUNS_REPLACE_WHEN_BLOCKED_SECONDS, now "
            "%(default)g; 0 is never)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            require_production_settings(serves_pages=False)
        override(
            max_concurrent=options["max_concurrent"],
            replace_when_blocked_seconds=options["replace_when_blocked"],
        )
        await_database(self._say)
        require_migrations()
        with listen(options["listen"], resolve(options["listen"])) as listener:
            self._introduce(listener)
            serve(configuration("runs.asgi.worker.application"), [listener])

    def _introduce(self, listener: socket.socket) -> None:
        is_reached = is_shared(get_channel_layer())
        self._say(
            f"Worker {process_name()} takes up to {conf().max_concurrent} runs "
            f"(database {connection.display_name}, messages by {'Redis' if is_reached else 'none'})"
            f"; health at {address_to_open(listener)}health/ready"
        )
        if not is_reached:
            self._say(
                "  Without REDIS_URL other processes can send it no messages: it polls for new "
                "runs and stops, twice a second."
            )

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError("0 or more")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ArgumentTypeError("at least 1")
    return count
