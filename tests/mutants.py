"""Plant mistakes on purpose, one at a time; each must make a test fail.

`python -m tests.mutants` plants all of them, one after the other, in a copy of the checkout;
`python -m tests.mutants NAME ...` these. It exits with 1 if a mistake was not found. Not a part
of `make test`: it takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """A mistake: ``old`` becomes ``new`` in a file, and one of ``tests`` must find it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "a lost worker may still write",
        "runs/actions/progress.py",
        "elif updates.worker not in good:",
        "elif False:",
        "tests/runs/actions/test_fencing.py tests/runs/actions/test_recovery.py",
    ),
    Mutant(
        "a lost worker's data store writes count",
        "runs/worker/data_store.py",
        "return cursor.fetchone() is not None",
        "return True",
        "tests/runs/actions/test_fencing.py",
    ),
    Mutant(
        "leases are renewed by the host's clock",
        "runs/actions/leases.py",
        '"heartbeat_at": Now(),\n        "lease_until": Now() + timedelta(seconds=lease_seconds),',
        '"heartbeat_at": timezone.now(),\n'
        '        "lease_until": timezone.now() + timedelta(seconds=lease_seconds),',
        "tests/runs/actions/test_leases.py",
    ),
    Mutant(
        "leases are compared by the host's clock",
        "runs/actions/leases.py",
        "is_over = Q(lease_until__lt=Now())",
        "is_over = Q(lease_until__lt=timezone.now())",
        "tests/runs/actions/test_leases.py",
    ),
    Mutant(
        "leases begin by the host's clock",
        "runs/actions/leases.py",
        "heartbeat_at=Now(),\n        lease_until=Now() + timedelta(seconds=lease_seconds),",
        "heartbeat_at=timezone.now(),\n"
        "        lease_until=timezone.now() + timedelta(seconds=lease_seconds),",
        "tests/runs/actions/test_leases.py",
    ),
    Mutant(
        "a lost worker may claim",
        "runs/transitions.py",
        "WHERE id = %s AND lost_at IS NULL AND draining_at IS NULL AND {renewed}",
        "WHERE id = %s AND draining_at IS NULL AND {renewed}",
        "tests/runs/queue/test_claims.py tests/runs/actions/test_leases.py",
    ),
    Mutant(
        "a worker whose renewal is overdue may claim",
        "runs/transitions.py",
        "(JULIANDAY(heartbeat_at) + JULIANDAY(lease_until)) / 2 > JULIANDAY('now')",
        "1 = 1",
        "tests/runs/queue/test_claims.py tests/runs/actions/test_beginning.py",
    ),
    Mutant(
        "a claim ignores the limits",
        "runs/queue/claims.py",
        "if slots.obstacle(agent, owner_id):",
        "if False:",
        "tests/runs/queue/test_limits.py",
    ),
    Mutant(
        "any attempt may write",
        "runs/transitions.py",
        "_HELD = by_key(\"status = 'running' AND worker_id = %s AND attempt = %s\")",
        "_HELD = by_key(\"status = 'running' AND worker_id = %s AND attempt <> -%s\")",
        "tests/runs/test_transitions.py tests/runs/actions/test_fencing.py"
        " tests/runs/actions/test_beginning.py",
    ),
    Mutant(
        "code begins although the claim is lost",
        "runs/actions/leases.py",
        "return transitions.begin(run.id, run.worker, run.attempt)",
        "return transitions.begin(run.id, run.worker, run.attempt) or True",
        "tests/runs/worker/test_beginning.py tests/runs/actions/test_beginning.py",
    ),
    Mutant(
        "a shutdown reads stopped",
        "runs/actions/finishing.py",
        'case "stopped" | "interrupted" if record.stop_requested:',
        'case "stopped" | "interrupted" if record.stop_requested or ending.has_begun:',
        "tests/runs/actions/test_finishing.py tests/runs/worker/test_draining.py",
    ),
    Mutant(
        "a caller may end before its children",
        "runs/actions/finishing.py",
        'return set(children.values_list("parent_id", flat=True))',
        "return set()",
        "tests/runs/actions/test_recovery_of_trees.py tests/runs/actions/test_trees_property.py",
    ),
    Mutant(
        "a stop leaves the runs below",
        "runs/actions/stopping.py",
        "while callers := [record.pk for record in level if record.has_children]:",
        "while callers := list[uuid.UUID]():",
        "tests/runs/actions/test_stopping.py tests/runs/actions/test_stopping_across_workers.py",
    ),
    Mutant(
        "tokens trip before the request is committed",
        "runs/actions/stopping.py",
        "on_commit(lambda: stops.deliver(deliveries.values()), robust=True)",
        "stops.deliver(deliveries.values())",
        "tests/runs/actions/test_stopping.py tests/runs/actions/test_stopping_at_once.py",
    ),
    Mutant(
        "a request whose message was lost is not found",
        "runs/delivery/stops.py",
        "        if row.stop_mode\n",
        "        if False\n",
        "tests/runs/actions/test_stopping_across_workers.py tests/runs/worker/test_heartbeat.py",
    ),
    Mutant(
        "calls are admitted after the lease",
        "agents/cancellation.py",
        "if now < self.lease.until and",
        "if",
        "tests/agents/cancellation",
    ),
    Mutant(
        "a softer stop replaces a harder one",
        "agents/cancellation.py",
        "if mode.rank > self.mode.rank:",
        "if mode.rank != self.mode.rank:",
        "tests/agents/cancellation/test_requests.py",
    ),
    Mutant(
        "a child that is made after the stop is not stopped",
        "agents/cancellation.py",
        "            if parent.stopped:\n",
        "            if False:\n",
        "tests/agents/cancellation/test_token_trees.py",
    ),
    Mutant(
        "a closed guard admits",
        "agents/guard/in_flight.py",
        "if self._is_over or (self._is_closed and not _speaks_last.get()):",
        "if False:",
        "tests/agents/guard/test_end.py",
    ),
    Mutant(
        "a guard asks whether it was stopped without the token's lock",
        "agents/guard/guard.py",
        "guard.token.admit(self.tool, self.label, in_cleanup=self._in_cleanup)",
        "(guard.token.stopped and guard.token.refuse()) or time.monotonic()",
        "tests/agents/guard tests/agents/cancellation",
    ),
    Mutant(
        "an abort spares the calls in flight",
        "agents/guard/cuts.py",
        "if mode.rank < rung.rank:",
        "if mode.rank <= rung.rank:",
        "tests/agents/guard/test_aborts.py",
    ),
    Mutant(
        "an abort cuts what a cleanup saves",
        "agents/guard/guard.py",
        "if has_cleanup() or not self._is_cuttable:",
        "if not self._is_cuttable:",
        "tests/agents/guard/test_aborts.py",
    ),
    Mutant(
        "an abort that comes before the call is registered is missed",
        "agents/guard/cuts.py",
        "        if mode is not None and mode.rank >= rung.rank:  # it came before\n",
        "        if False:\n",
        "tests/agents/guard/test_aborts.py",
    ),
    Mutant(
        "a request leaves after the stop",
        "agents/tools/http/last_moment.py",
        "            call.token.admit(call.tool, call.label)\n",
        "",
        "tests/agents/tools/http/requests/test_stopping.py",
    ),
    Mutant(
        "a request of an SDK that was cut before its answer counts nothing",
        "agents/tools/llm/traffic/watching.py",
        "call.is_sent is not False:",
        "False:",
        "tests/agents/tools/llm/traffic/test_cuts.py",
    ),
    Mutant(
        "a stream that broke off counts as reported",
        "agents/tools/llm/traffic/answers.py",
        "return replace(reply, usage=replace(reply.usage, estimated=True))",
        "return reply",
        "tests/agents/tools/llm/traffic/test_gemini.py",
    ),
    Mutant(
        "a guarded request is guarded again",
        "agents/tools/everything/of_httpx.py",
        "        if carrying() is not None or current_guard() is None:\n            return await",
        "        if current_guard() is None:\n            return await",
        "tests/agents/tools/everything/test_httpx.py",
    ),
    Mutant(
        "connections of tools count as unwatched",
        "agents/process/state.py",
        " or is_carried():",
        ":",
        "tests/runs/worker/test_guarding.py",
    ),
]


def main(names: list[str]) -> int:
    """Plant the mistakes of these names, or all; return the exit status."""
    wanted = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print("There is no mistake of this name:", *sorted(unknown), sep="\n  ")
        return 2
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        _copy(copy)
        for mutant in wanted:
            by = _found_by(mutant, copy)
            print(f"{'found' if by else 'SURVIVES'}  {mutant.name}  {by}", flush=True)
            if not by:
                survivors.append(mutant)
    return 1 if survivors else 0


def _copy(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def _found_by(mutant: Mutant, copy: Path) -> str:
    """Return the test that finds a mistake; empty if none does."""
    path = copy / mutant.file
    right = path.read_text()
    if right.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file} has {right.count(mutant.old)} of: {mutant.old}")
    path.write_text(right.replace(mutant.old, mutant.new))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", *mutant.tests.split()],
            cwd=copy,
            env=os.environ | {"DJANGO_DEBUG": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(right)
    if not done.returncode:
        return ""
    words = (line.split(" ") for line in done.stdout.splitlines() if line.startswith("FAILED "))
    return next((parts[1] for parts in words), f"exit status {done.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
