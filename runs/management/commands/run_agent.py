"""`manage.py run_agent`: run one agent from a terminal, watch it, stop it with Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, TextIO

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from agents import registry
from agents.exceptions import AgentNotFound, InvalidInput
from agents.options import HIGHEST_PRIORITY, LOWEST_PRIORITY
from runs.conf import conf
from runs.exceptions import (
    InputTooLarge,
    LimitsNotPermitted,
    PriorityNotPermitted,
    QuotaExceeded,
)
from runs.management.console import Console, printable
from runs.management.following import ERROR, STOPPED, SUCCESS, USAGE, RunHere, RunThere
from runs.management.input_arguments import read_input, read_json_input
from runs.management.records import find_user, receipt_of
from runs.models import RunRecord
from runs.ops.leaving import leave
from runs.status import Status
from runs.wire import tree_usage_of, usage_of
from runs.wording.run import tree_usage_text, usage_text
from runs.wording.status import look
from runs.wording.time import duration

_REFUSALS = (InputTooLarge, LimitsNotPermitted, PriorityNotPermitted, QuotaExceeded)


class Command(BaseCommand):
    help = (
        "Run an agent and show what it does. Its result goes to standard output, everything else "
        "to standard error. Ctrl-C stops it after the call in flight, a second one cuts the call, "
        "a third one gives up on the run. Exits with 0 (success), 1 (error), 2 (usage) or "
        "3 (stopped)."
    )
    # It serves no addresses, so it checks none.
    requires_system_checks = ["agents"]

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("agent", help="the agent's name")
        given = parser.add_mutually_exclusive_group()
        given.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="a parameter; KEY=@FILE takes the value from a file (a PDF too), KEY=@- from "
            "standard input, KEY=@@x is the text @x; repeat it for each item of a list",
        )
        given.add_argument(
            "--input-json",
            metavar="JSON",
            help="all parameters as one JSON object, or @FILE, or - for standard input",
        )
        parser.add_argument("--user", help="whose run it is (in debug mode: demo by default)")
        parser.add_argument(
            "--remote",
            action="store_true",
            help="queue it for the workers, and follow it, instead of running it in this process",
        )
        parser.add_argument(
            "--priority",
            type=int,
            metavar="NUMBER",
            help=f"with --remote: {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}, the highest starts "
            "first; above the agent's own, its user needs runs.prioritise_runrecord",
        )
        parser.add_argument(
            "--deadline",
            type=float,
            metavar="SECONDS",
            help="stop it after so long; later than its agent or the site says, its user needs "
            "runs.raise_limits",
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """End the process with the status of the run, though a thread of its agent may go on."""
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            leave(end.code if isinstance(end.code, int) else bool(end.code))
            raise
        leave(0)

    def handle(self, *args: Any, **options: Any) -> None:
        # The streams as they are now: while agents run, sys.stdout is another.
        stdout: TextIO = options.get("stdout") or sys.stdout
        stderr: TextIO = options.get("stderr") or sys.stderr
        try:
            user = options["user"] or ("demo" if settings.DEBUG else "")
            if not user:
                raise CommandError("Say whose run it is: --user USERNAME.", returncode=USAGE)
            owner = find_user(user)
            if options["priority"] is not None and not options["remote"]:
                raise CommandError(
                    "Without --remote the run starts at once: --priority has no effect.",
                    returncode=USAGE,
                )
            agent, input = _read(options)
            console = Console(stderr, verbosity=options["verbosity"])
            kind = RunThere if options["remote"] else RunHere
            deadline = options["deadline"]
            limits = {} if deadline is None else {"deadline_seconds": deadline}
            watch = kind(console, agent, input, owner, options["priority"], limits)
            with watch.running() as record:
                watch.exit_code = _report(record, console, stdout)
        except KeyboardInterrupt:
            raise CommandError("Stopped before it had started.", returncode=STOPPED) from None
        except (InvalidInput, *_REFUSALS) as error:
            raise CommandError(printable(error), returncode=USAGE) from None
        except DatabaseError as error:
            raise CommandError(
                f"The database (DATABASE_URL) can't be used: {error}. Is it migrated?"
            ) from error
        if watch.exit_code:
            raise SystemExit(watch.exit_code)


def _read(options: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the agent's name and its input, checked.

    Raises:
        CommandError: there is no such agent, or the input does not fit.
    """
    try:
        definition = registry.get(options["agent"])
    except AgentNotFound as error:
        raise CommandError(printable(error), returncode=USAGE) from None
    limit = conf().max_input_bytes
    input: Any
    if options["input_json"] is not None:
        input, fields = read_json_input(options["input_json"], max_bytes=limit)
    else:
        input, fields = read_input(options["input"], definition.input_schema, max_bytes=limit)
    try:
        if input is not None:
            definition.validate_input(input)
    except InvalidInput as error:
        fields = error.fields | fields  # what can't be read is not missing
    if fields:
        lines = [f"The input does not fit the agent {definition.name}."]
        lines += [f"  {path}: {line}" for path, some in fields.items() for line in some]
        raise CommandError(printable("\n".join(lines)), returncode=USAGE)
    return definition.name, input


def _report(record: RunRecord, console: Console, stdout: TextIO) -> int:
    """Print how a run has ended, and return the exit code for it."""
    status = look(record.shown_status)
    took = ""
    if record.started_at is not None and record.finished_at is not None:
        seconds = (record.finished_at - record.started_at).total_seconds()
        took = f" in {duration(seconds)}"
    usage = usage_of(record)
    parts = [
        f"{status.sign} {status.label}{took}",
        usage_text(usage),
        tree_usage_text(usage, tree_usage_of(record)),
        f"run {record.pk}",
    ]
    console.say(" · ".join(part for part in parts if part), status.tone)
    for sentence in receipt_of(record.pk, result_below=True):
        console.say(sentence)
    if record.status == Status.SUCCESS:
        _print_result(record.result, stdout)
        return SUCCESS
    if record.status == Status.QUEUED:
        console.say("It was queued again, and starts afresh as soon as a worker claims it.")
    if is_error := record.status == Status.ERROR:
        error = record.error or {}
        console.say(f"{error.get('message')} ({error.get('code')})", "bad")
    if record.partial_result is not None:
        if is_error:
            console.say("What it had so far:")
        _print_result(record.partial_result, stdout)
    return STOPPED if record.stop_requested and not is_error else ERROR


def _print_result(result: object, stdout: TextIO) -> None:
    """Print a text as it is, anything else as JSON. A terminal gets no escape sequences."""
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, indent=2)
    if stdout.isatty():
        text = printable(text)
    try:
        text.encode(stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # an old locale, which has no sign for some of it
        if isinstance(stdout, io.TextIOWrapper):
            stdout.reconfigure(encoding="utf-8")
    with contextlib.suppress(OSError, ValueError):  # the exit code tells of the run, not of this
        stdout.write(f"{text}\n")
        stdout.flush()
