"""Run all systems one after the other, and print one table."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
import venv
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from .driver import ROWS

__all__ = ["SYSTEMS", "main"]

ROOT = Path(__file__).resolve().parents[2]
OURS = "halting"
SYSTEMS = (OURS, "procrastinate", "celery", "dramatiq", "arq", "dbos")
REQUIREMENTS = Path(__file__).with_name("requirements")  # a file each: their pins differ
ENVIRONMENTS = ROOT / ".venv-peers"
SECONDS = 150  # for one system, though something hangs

Found = dict[str, float | str]


def main(names: list[str]) -> int:
    """Measure the systems with these names, all without; return 1 if one could not be measured."""
    unknown = set(names) - set(SYSTEMS)
    if unknown or "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        print(f"usage: DATABASE_URL=postgres://... REDIS_URL=redis://... bench peers {SYSTEMS}")
        return 2
    pythons = {name: _python(name) for name in names or SYSTEMS}
    rounds: dict[str, list[Found]] = {}
    for name, python in pythons.items():
        started = time.monotonic()
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rounds.setdefault(name, []).append(_measure(name, python))
        print(f"    {time.monotonic() - started:.0f} s", file=sys.stderr)
    found = {name: _medians(all_of) for name, all_of in rounds.items()}
    print(table(found))
    about = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    path = results / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-peers.json"
    path.write_text(json.dumps({"about": about, "found": found}, indent=2))
    print(f"\n{path.relative_to(ROOT)}")
    return 0 if all(found.values()) else 1


def _python(name: str) -> str:
    """Return the interpreter of a system's environment, which this makes if need be."""
    if name == OURS:
        return sys.executable
    wanted = REQUIREMENTS / f"{name}.txt"
    python, stamp = ENVIRONMENTS / name / "bin" / "python", ENVIRONMENTS / name / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        print(f"Installing {name} into {python.parents[1].relative_to(ROOT)} ...", file=sys.stderr)
        venv.create(ENVIRONMENTS / name, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "-r", str(wanted)]
        subprocess.run(install, check=True)
        shutil.copy(wanted, stamp)
    return str(python)


def _measure(name: str, python: str) -> Found:
    """Run the driver of a system with a new database, and an empty one in Redis."""
    import psycopg
    import redis
    from psycopg import sql

    server = os.environ["DATABASE_URL"]
    database = f"peers_{uuid.uuid4().hex[:12]}"
    in_redis = urlsplit(os.environ["REDIS_URL"])._replace(path=f"/{_empty_database()}").geturl()
    parts = urlsplit(server)._replace(scheme="postgresql", path=f"/{database}")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        try:
            output = subprocess.run(
                [python, "-m", "bench.peers.driver", name],
                cwd=ROOT,
                env=os.environ | {"PEERS_DB": parts.geturl(), "PEERS_REDIS": in_redis},
                stdout=subprocess.PIPE,
                timeout=SECONDS,
                check=False,
            ).stdout
        except subprocess.TimeoutExpired as late:
            print(f"{name} took longer than {SECONDS} s", file=sys.stderr)
            output = late.stdout or b""
        finally:
            redis.Redis.from_url(in_redis).flushdb()
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database))
            )
    found: Found = {}
    for line in output.decode().splitlines():
        if line.startswith("{"):  # each has what the ones before had
            found = json.loads(line)
    return found


def _empty_database() -> int:
    """Return the number of a database of Redis that has no keys, and is not the site's own."""
    import redis

    url = urlsplit(os.environ["REDIS_URL"])
    own = int(url.path.strip("/") or 0)
    for number in range(15, 0, -1):
        if (
            number != own
            and not redis.Redis.from_url(url._replace(path=f"/{number}").geturl()).dbsize()
        ):
            return number
    raise RuntimeError("no database of Redis is empty")


def _medians(rounds: list[Found]) -> Found:
    found: Found = {}
    for name in ROWS:
        values = [round[name] for round in rounds if name in round]
        numbers = [value for value in values if not isinstance(value, str)]
        if numbers:
            found[name] = statistics.median(numbers)
        elif values:
            found[name] = values[0]
    return found


def table(found: dict[str, Found]) -> str:
    """Return a row for each measure, with the ratio of ours to the best of the others."""
    peers = [name for name in found if name != OURS]
    lines = [["", "unit", *found, "ratio to the best"]]
    for row, (title, unit, is_more_better) in ROWS.items():
        values = [found[name].get(row, "") for name in found]
        ours = found.get(OURS, {}).get(row)
        others = [found[name].get(row) for name in peers]
        numbers = [value for value in others if isinstance(value, (int, float)) and value]
        ratio = ""
        if isinstance(ours, (int, float)) and numbers:
            ratio = f"{ours / (max if is_more_better else min)(numbers):.2f}"
        lines.append([title, unit, *map(_text, values), ratio])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
