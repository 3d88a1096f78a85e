"""Run every test: `python -m tests [arguments for pytest]`, which is what `make test` does.

The default is one process on SQLite with the in-memory layer, so that is what the suite runs on.
Where DATABASE_URL or REDIS_URL say that the others are there, the tests that are marked for them
run first, in a session of their own that has them as its settings. What is not there is not
deselected: its tests are skipped, loudly, and REQUIRE_ALL=1 makes that a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def main(arguments: list[str]) -> int:
    """Run both sessions, and return the first failure's exit status."""
    found = []
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        found.append("postgres")
    if os.environ.get("REDIS_URL"):
        found.append("redis")

    alone = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"}}
    if not found:
        return _pytest(arguments, alone)

    marked = " or ".join(found)
    statuses = [
        _pytest([*arguments, "-m", marked], dict(os.environ)),
        # Before the arguments: a person's own -m wins.
        _pytest(["-m", f"not ({marked})", *arguments], alone),
    ]
    # With arguments, all that was asked for may be in one of the two.
    ran = [status for status in statuses if status != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((status for status in ran if status), 0 if ran else statuses[0])


def _pytest(arguments: list[str], environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
