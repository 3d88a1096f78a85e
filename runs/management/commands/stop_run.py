"""`manage.py stop_run`: ask one run, and all below it, to stop."""

from __future__ import annotations

import time
import uuid
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from runs.actions import stopping
from runs.conf import conf
from runs.exceptions import ModeNotAvailable, RunAlreadyFinished, StopNotPermitted
from runs.management.console import printable
from runs.management.records import find_user, receipt_of
from runs.models import RunRecord, StopVia
from runs.wire import for_wire, run_as_dict
from runs.wording.status import look
from runs.wording.stop import stopping_text, worker_silent
from runs.wording.time import duration

REFUSED, USAGE = 1, 2
POLL_SECONDS = 0.1


class Command(BaseCommand):
    help = (
        "Ask a run to stop, with all runs below it. Exits with 0 (it stops, or was already asked "
        "to), 1 (it was over, or --user may not stop it) or 2 (there is no such run)."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", metavar="ID", help="the run's id")
        parser.add_argument(
            "--mode", default="graceful", help="how hard; graceful lets the call in flight finish"
        )
        parser.add_argument("--reason", default="", help="kept in the receipt")
        parser.add_argument(
            "--wait", type=_seconds, metavar="SECONDS", help="wait until it is over, and say how"
        )
        parser.add_argument(
            "--user",
            help="in whose name, and with whose rights; without it no permission is checked",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            run = self._ask(options)
            if options["wait"] is not None:
                self._wait(run, options["wait"])
        except DatabaseError as error:
            raise CommandError(f"The database (DATABASE_URL) can't be used: {error}.") from error

    def _ask(self, options: dict[str, Any]) -> RunRecord:
        user = find_user(options["user"]) if options["user"] is not None else None
        id = _find(options["run"], user)
        try:
            result = stopping.request_stop(
                id,
                via=StopVia.CLI,
                by=user,
                mode=options["mode"],
                reason=options["reason"],
                check_permission=user is not None,
            )
        except RunRecord.DoesNotExist:
            raise _not_found(options["run"]) from None
        except RunAlreadyFinished as error:
            words = look(error.run.shown_status).label
            self._say(receipt_of(error.run, result_below=False))
            raise CommandError(f"The run was already over: {words}.", returncode=REFUSED) from None
        except StopNotPermitted as error:
            raise CommandError(str(error), returncode=REFUSED) from None
        except (ModeNotAvailable, ValueError) as error:
            raise CommandError(str(error), returncode=USAGE) from None
        if result.outcome == "already_stopping":
            self._say(["It was asked to stop before; the first request counts."])
        record = _load(id)
        self._say(self._now(record))
        return record

    def _wait(self, record: RunRecord, seconds: float) -> None:
        """Wait until a run is over, and say so; ``record`` is what was said of it already."""
        deadline = time.monotonic() + seconds
        if record.is_terminal:
            return
        said = self._now(record)
        while time.monotonic() < deadline:
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            record = _load(record.pk)
            if record.is_terminal:
                self._say(receipt_of(record, result_below=False))
                return
            now = self._now(record)
            if now != said:
                self._say(now)
            said = now
        self._say([f"It has not ended within {duration(seconds)}; it goes on stopping."])

    def _now(self, record: RunRecord) -> list[str]:
        """Say how it stands with a run that was asked to stop."""
        if record.is_terminal:
            return receipt_of(record, result_below=False)
        sentences = [stopping_text(run_as_dict(record, with_input=False))]
        worker = record.worker
        if worker is not None and record.stop_acknowledged_at is None:
            silent = timezone.now() - worker.heartbeat_at
            # It renews every third of its lease.
            if silent > timedelta(seconds=conf().lease_seconds / 2):
                left = (worker.lease_until - timezone.now()).total_seconds()
                sentences.append(worker_silent(left))
        return sentences

    def _say(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self.stdout.write(printable(sentence))
        self.stdout.flush()


def _find(given: str, user: Any) -> uuid.UUID:
    try:
        id = uuid.UUID(given)
    except ValueError:
        raise _not_found(given) from None
    if user is not None and not RunRecord.objects.visible_to(user).filter(pk=id).exists():
        raise _not_found(given)
    return id


def _load(id: uuid.UUID) -> RunRecord:
    return for_wire(RunRecord.objects.all(), with_input=False).get(pk=id)


def _not_found(given: str) -> CommandError:
    return CommandError(f"There is no run {printable(given)}.", returncode=USAGE)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds
