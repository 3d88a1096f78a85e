"""`manage.py delete_old_runs`: remove runs that ended long ago, or only their logs."""

from __future__ import annotations

import argparse
import re
import time
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from runs.ops.retention import BATCH_COUNT, Policy, Sweep
from runs.status import TERMINAL

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_500)


class Command(BaseCommand):
    help = (
        "Remove runs that ended long ago, with all runs below them, or only their logs. Runs that "
        "are not over are never touched, nor is the data store. It can be interrupted, begun "
        "again, and run beside itself at any time."
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
            help="remove the logs of runs, and keep what came of them",
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
            "--dry-run", action="store_true", help="only say how much would be removed"
        )
        parser.add_argument(
            "--batch-size",
            type=_count,
            default=BATCH_COUNT,
            metavar="N",
            help=f"trees of runs at a time ({BATCH_COUNT})",
        )
        parser.add_argument(
            "--pause",
            type=_seconds,
            default=0.05,
            metavar="SECONDS",
            help="between two batches, for others to get on with their work (0.05)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["older_than"] is None and options["logs_older_than"] is None:
            raise CommandError("Say what is too old: --older-than, --logs-older-than, or both.")
        try:
            self._remove(options)
        except DatabaseError as error:
            raise CommandError(f"The database (DATABASE_URL) can't be used: {error}.") from error

    def _remove(self, options: dict[str, Any]) -> None:
        owner = _user_id(options["owner"]) if options["owner"] is not None else None
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
        began = time.monotonic()
        removed = sweep.removed
        try:
            before = removed.trees
            while sweep.step():
                if removed.trees != before and not sweep.is_dry:
                    before = removed.trees
                    time.sleep(pause)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted; what is said below is done.")
            raise SystemExit(130) from None
        finally:
            verb = "would be removed" if sweep.is_dry else "removed"
            if sweep.policy.what == "runs":
                said = f"{removed.runs} runs ({removed.trees} with those below them)"
            else:
                said = f"the logs of {removed.runs} runs"
            seconds = time.monotonic() - began
            self.stdout.write(f"{said}, {removed.events} events: {verb} ({seconds:.1f} s)")


def _user_id(name: str) -> Any:
    users = get_user_model()
    user = users.objects.filter(**{users.USERNAME_FIELD: name}).first()
    if user is None:
        raise CommandError(f'There is no user "{name}".', returncode=2)
    return user.pk


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([hdw])", text.strip())
    if not found:
        raise argparse.ArgumentTypeError("an age such as 90d, 12h or 8w is expected")
    age = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if age > _LONGEST:
        raise argparse.ArgumentTypeError("that is more than a century")
    return age


def _statuses(text: str) -> frozenset[str]:
    statuses = frozenset(part.strip() for part in text.split(","))
    if not statuses <= set(map(str, TERMINAL)):
        raise argparse.ArgumentTypeError("some of success, error, stopped are expected")
    return statuses


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000:
        raise argparse.ArgumentTypeError("a number from 1 to 1000 is expected")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("a number of seconds is expected")
    return seconds
