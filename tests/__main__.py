"""Run every test: `python -m tests [arguments for pytest]`, which is what `make test` does.

The default is one process on SQLite with the in-memory layer, so that is what the suite runs on.
Where DATABASE_URL or REDIS_URL say that the others are there, the tests that are marked for them
run first, in a session of their own that has them as its settings. What is not there is not
deselected: its tests are skipped, loudly, and REQUIRE_ALL=1 makes that a failure.

The tests in a real browser are a session of their own, too, that runs beside the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import pytest


def main(arguments: list[str]) -> int:
    """Run all sessions, and return the first failure's exit status."""
    found = []
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        found.append("postgres")
    if os.environ.get("REDIS_URL"):
        found.append("redis")
    alone = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"}}

    # With arguments, somebody is looking at a few tests: in turn, and in plain sight.
    beside = ["browser"] if not arguments else []
    waits = [_begin(["-m", marker], alone) for marker in beside]
    statuses = []
    if found:
        statuses.append(_pytest([*arguments, "-m", " or ".join(found)], dict(os.environ)))
    elsewhere = [" or ".join(markers) for markers in (found, beside) if markers]
    # Before the arguments: a person's own -m wins.
    left_out = ["-m", " and ".join(f"not ({markers})" for markers in elsewhere)]
    statuses.append(_pytest([*(left_out if elsewhere else []), *arguments], alone))
    statuses += [wait() for wait in waits]

    # With arguments, all that was asked for may be in one of them.
    ran = [status for status in statuses if status != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((status for status in ran if status), 0 if ran else statuses[0])


def _pytest(arguments: list[str], environment: dict[str, str]) -> int:
    return subprocess.run(_command(arguments), env=environment, check=False).returncode


def _begin(arguments: list[str], environment: dict[str, str]) -> Callable[[], int]:
    """Begin a session beside the others; returns what waits for it, and then shows its output.

    A browser's tests mostly wait, for a browser and a server in processes of their own.
    """
    output = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed once it was read
    process = subprocess.Popen(
        _command(arguments), env=environment, stdout=output, stderr=subprocess.STDOUT
    )

    def wait() -> int:
        with output:
            try:
                status = process.wait()
            finally:
                process.kill()  # where we are interrupted it must not go on alone
            output.seek(0)
            sys.stdout.write(output.read())
        return status

    return wait


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
