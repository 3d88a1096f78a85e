"""`manage.py delete_old_runs`: remove runs that ended long ago, or only their logs."""

from __future__ import annotations

import re
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from runs.management.records import find_user
from runs.ops.retention import BATCH_COUNT, Policy, Sweep
from runs.quotas import ledger
from runs.status import TERMINAL

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class Command(BaseCommand):
    help = (
        "Remove runs that ended long ago, with all runs below them, or only their logs. It never "
        "removes active runs or the data store. You may interrupt it, start it again, and run "
        "several at once."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--older-than", type=_age, metavar="AGE", help="remove runs: 90d, 12h or 8w"
        )
        parser.add_argument(
            "--logs-older-than",
            type=_age,
            metavar="AGE",
            help="remove only the logs of runs",
        )
        parser.add_argument(
            "--status",
            type=_statuses,
            default=TERMINAL,
            metavar="STATUS,...",
            help="only runs that ended so: success, error, stopped",
        )
        parser.add_argument("--agent", default="", help="only runs of this agent")
        parser.add_argument("--owner", help="only this user's runs")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="say how much would be removed",
        )
        parser.add_argument(
            "--batch-size",
            type=_number(int, 1, 1_000),
            default=BATCH_COUNT,
            metavar="N",
            help=f"trees of runs at a time ({BATCH_COUNT})",
        )
        parser.add_argument(
            "--pause",
            type=_number(float, 0, 3_600),
            default=0.05,
            metavar="SECONDS",
            help="between two batches, for the work of others (0.05)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["older_than"] is None and options["logs_older_than"] is None:
            raise CommandError("Say what is too old: --older-than, --logs-older-than, or both.")
        try:
            self._remove(options)
        except DatabaseError as error:
            raise CommandError(f"The database (DATABASE_URL) can't be used: {error}.") from error

    def _remove(self, options: dict[str, Any]) -> None:
        owner = None
        if options["owner"] is not None:
            owner = find_user(options["owner"], may_be_inactive=True).pk
        now = timezone.now()
        for what, age in (("runs", options["older_than"]), ("logs", options["logs_older_than"])):
            if age is None:
                continue
            policy = Policy(
                what,  # type: ignore[arg-type]
                now - age,
                statuses=options["status"],
                agent=options["agent"],
                owner_id=owner,
            )
            sweep = Sweep(policy, batch_count=options["batch_size"], is_dry=options["dry_run"])
            self._sweep(sweep, options["pause"])

    def _sweep(self, sweep: Sweep, pause: float) -> None:
        started = time.monotonic()
        removed = sweep.removed
        try:
            before = removed.trees
            while sweep.step():
                if removed.trees != before and not sweep.is_dry:
                    before = removed.trees
                    time.sleep(pause)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted. Until then:")
            raise SystemExit(130) from None
        finally:
            verb = "would be removed" if sweep.is_dry else "removed"
            if sweep.policy.what == "runs":
                said = f"{removed.runs} runs ({removed.trees} with those below them)"
            else:
                said = f"the logs of {removed.runs} runs"
            with suppress(DatabaseError):  # the next measurement of the usage corrects it
                ledger.flush()
            seconds = time.monotonic() - started
            self.stdout.write(f"{said}, {removed.events} events: {verb} ({seconds:.1f} s)")


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([hdw])", text.strip())
    if not found:
        raise ArgumentTypeError("an age such as 90d, 12h or 8w is expected")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _statuses(text: str) -> frozenset[str]:
    statuses = frozenset(part.strip() for part in text.split(","))
    if not statuses <= set(map(str, TERMINAL)):
        raise ArgumentTypeError("some of success, error, stopped are expected")
    return statuses


def _number(kind: type[float], least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            if least <= (number := kind(text)) <= most:
                return number
        raise ArgumentTypeError(f"a number from {least} to {most} is expected")

    return read
