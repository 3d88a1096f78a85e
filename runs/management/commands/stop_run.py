"""`manage.py stop_run`: ask one run, and all below it, to stop."""

from __future__ import annotations

import time
import uuid
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from runs.actions import stopping
from runs.exceptions import RunAlreadyFinished, StopNotPermitted
from runs.management.console import printable
from runs.management.records import find_user, receipt_of
from runs.models import RunRecord, StopVia
from runs.web.feed.reading import read_snapshots
from runs.wording.status import look
from runs.wording.time import duration

REFUSED, USAGE = 1, 2
POLL_SECONDS = 0.1


class Command(BaseCommand):
    help = (
        "Ask a run to stop, with all runs below it. Exits with 0 (it stops, or was asked before), "
        "1 (it was over, or --user may not stop it) or 2 (there is no such run)."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", metavar="ID", help="the run's id")
        parser.add_argument(
            "--mode", default="graceful", help="how hard; graceful lets the call in flight finish"
        )
        parser.add_argument("--reason", default="", help="kept in the receipt")
        parser.add_argument(
            "--wait", type=float, metavar="SECONDS", help="wait for the end, and print the receipt"
        )
        parser.add_argument(
            "--user",
            help="in whose name, and with whose rights; without it no permission is checked",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._said: list[str] = []
        try:
            run = self._ask(options)
            if not self._tell(run) and options["wait"] is not None:
                self._wait(run, options["wait"])
        except DatabaseError as error:
            raise CommandError(f"The database (DATABASE_URL) can't be used: {error}.") from error

    def _ask(self, options: dict[str, Any]) -> uuid.UUID:
        user = find_user(options["user"]) if options["user"] is not None else None
        runs = RunRecord.objects.visible_to(user) if user else RunRecord.objects.all()
        try:
            id = runs.values_list("pk", flat=True).get(pk=options["run"])
            result = stopping.request_stop(
                id,
                via=StopVia.CLI,
                by=user,
                mode=options["mode"],
                reason=options["reason"],
                check_permission=user is not None,
            )
        except (RunRecord.DoesNotExist, ValidationError):
            given = printable(options["run"])
            raise CommandError(f"There is no run {given}.", returncode=USAGE) from None
        except RunAlreadyFinished as error:
            self._say(receipt_of(error.run.pk, result_below=False))
            status = look(error.run.shown_status).label
            raise CommandError(f"The run was already over: {status}.", returncode=REFUSED) from None
        except StopNotPermitted as error:
            raise CommandError(printable(error), returncode=REFUSED) from None
        except ValueError as error:
            raise CommandError(printable(error), returncode=USAGE) from None
        if result.outcome == "already_stopping":
            self._say(["It was asked to stop before; the first request counts."])
        return id

    def _wait(self, run: uuid.UUID, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._tell(run):
            if time.monotonic() >= deadline:
                self._say([f"It has not ended within {duration(seconds)}; it continues to stop."])
                return
            time.sleep(POLL_SECONDS)

    def _tell(self, run: uuid.UUID) -> bool:
        """Say how the stop stands, if that has changed; return whether the run is over."""
        snapshot = read_snapshots([run])[run]
        if snapshot.is_over:
            said = receipt_of(run, result_below=False)
        else:
            words = snapshot.words("")
            waiting = words["waiting"]
            said = [text for text in (waiting and waiting["text"], words["silent"]) if text]
        if said != self._said:
            self._say(said)
            self._said = said
        return snapshot.is_over

    def _say(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self.stdout.write(printable(sentence))
        self.stdout.flush()
