"""Run every test: `python -m tests [arguments for pytest]`, which is what `make test` does.

The suite runs on Halting's default: one process on SQLite with the in-memory layer. If DATABASE_URL
or REDIS_URL names a server, the tests that are marked for it run in separate sessions, with that
server in their settings. Without a server its tests are skipped, and the output says so loudly;
REQUIRE_ALL=1 makes that a failure.

The tests on SQLite are one session for each of a few folders. Four sessions run at a time, because
each mostly waits. What one compiles, the later ones and the processes that they start find in
``__pycache__``, whatever PYTHONDONTWRITEBYTECODE says: reading the suite takes half of the time.

Tests that are marked as thorough, which start several processes each, are left out if no arguments
are given.

With --everywhere as the first argument, the whole suite also runs on PostgreSQL with Redis, in
sessions for the same folders; thorough tests are in it, and those that repeat something do so more
often. That takes a quarter of an hour more, and tests changes of code that both databases share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

EVERYWHERE = "--everywhere"
_AT_A_TIME = 4  # sessions
_REDIS_DATABASES = 16  # as Redis has by default
#: Each set of folders has a session of its own on SQLite, the longest first; one has all others.
_LONG = ["tests/walks", "tests/attacks"]
_WORKER = ["tests/runs/actions", "tests/runs/management", "tests/runs/worker"]
_RUNS = ["tests/runs", *(f"--ignore={folder}" for folder in _WORKER)]
_APART = (
    _LONG,
    ["tests/installed", "tests/project"],
    ["tests/browser"],
    _WORKER,
    _RUNS,
    ["tests/agents"],
)
_QUICK = "not thorough"
#: What tests that repeat things do as often as they should; without, as often as there is time for.
_OFTEN = {
    "CHAOS_SECONDS": "8",
    "KILLED_RUNS": "200",
    "MODEL_EXAMPLES": "10",
    "SCHEMA_EXAMPLES": "20",
    "STOPS": "48",
}

_Session = tuple[list[str], dict[str, str]]  # arguments of pytest, environment


def main(arguments: list[str]) -> int:
    """Run all sessions, and return the first failure's exit status."""
    is_everywhere = arguments[:1] == [EVERYWHERE]
    if is_everywhere:
        arguments = arguments[1:]
    found = []
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        found.append("postgres")
    if os.environ.get("REDIS_URL"):
        found.append("redis")
    if is_everywhere and len(found) < 2:
        print(f"{EVERYWHERE} needs DATABASE_URL=postgres://... and REDIS_URL=redis://...")
        return pytest.ExitCode.USAGE_ERROR
    given = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if is_everywhere:
        given = _OFTEN | given
    alone = {k: v for k, v in given.items() if k not in {"DATABASE_URL", "REDIS_URL"}}

    # Before the arguments, so that a -m among them wins.
    unmarked = f"not ({' or '.join(found)})" if found else ""
    rest = ["-m", unmarked] if found else []
    sessions: list[_Session] = []
    others = _but(*_APART)
    wanted = "" if is_everywhere else " or ".join(found)
    if not is_everywhere and not arguments:
        wanted = f"({wanted}) and {_QUICK}"
        rest = ["-m", f"{unmarked} and {_QUICK}" if unmarked else _QUICK]
    if found and arguments:
        sessions.append(([*arguments, "-m", wanted], given))
    elif found:
        parts = (*_APART, others) if is_everywhere else (_LONG, _but(_LONG))
        for number, folders in enumerate(parts, 1):
            sessions.append(([*folders, "-m", wanted], given | _own_names(number)))
    if arguments:
        # A person runs a few tests: show the sessions one after the other.
        sessions.append(([*rest, *arguments], alone))
        statuses = [_pytest(*session) for session in sessions]
    else:
        # After the first, which walks through several processes: long ones at the end leave a
        # processor idle.
        sessions[1:1] = [([*rest, *folders], alone) for folders in (*_APART, others)]
        with ThreadPoolExecutor(_AT_A_TIME) as lanes:
            statuses = list(lanes.map(_shown_at_its_end, sessions))

    # With arguments, it may be that one session has all the tests.
    ran = [status for status in statuses if status != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((status for status in ran if status), 0 if ran else statuses[0])


def _but(*parts: list[str]) -> list[str]:
    """Return the arguments that leave folders out."""
    folders = [part for some in parts for part in some if not part.startswith("--")]
    return [f"--ignore={folder}" for folder in folders if folder.count("/") == 1]


def _own_names(number: int) -> dict[str, str]:
    """Return what keeps a session's data apart from others on the same PostgreSQL and Redis.

    All names in Redis derive from the key; but to clear Django's cache is to empty a whole Redis
    database, so each session has one. tests/conftest.py reads the suffix.
    """
    url = urlsplit(os.environ.get("REDIS_URL", ""))
    database = (int(url.path.strip("/") or 0) + number) % _REDIS_DATABASES
    return {
        **({"REDIS_URL": url._replace(path=f"/{database}").geturl()} if url.scheme else {}),
        "DJANGO_SECRET_KEY": f"only for tests, long enough for the checks: session {number}",
        "TEST_DATABASE_SUFFIX": f"_{number}",
    }


def _pytest(arguments: list[str], environment: dict[str, str]) -> int:
    return subprocess.run(_command(arguments), env=environment, check=False).returncode


def _shown_at_its_end(session: _Session) -> int:
    arguments, environment = session
    command = _command(arguments)
    print(f"{' '.join(command[1:])} ...", flush=True)
    with tempfile.TemporaryFile(mode="w+") as output:
        done = subprocess.run(
            command, env=environment, check=False, stdout=output, stderr=subprocess.STDOUT
        )
        output.seek(0)
        sys.stdout.write(output.read())  # at once: another session may end at the same time
        sys.stdout.flush()
    return done.returncode


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
