"""Workers as separate processes, for the site that the environment names."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["working"]

START_SECONDS = 60


@contextlib.contextmanager
def working(count: int, **environment: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run ``count`` worker processes until the block ends; show their logs if it fails."""
    from runs.models import WorkerRecord

    before = WorkerRecord.objects.filter(lost_at=None).count()
    with tempfile.TemporaryFile() as log:
        processes = [_start(log, environment) for _ in range(count)]
        try:
            end = time.monotonic() + START_SECONDS
            while WorkerRecord.objects.filter(lost_at=None).count() < before + count:
                if time.monotonic() > end:
                    raise TimeoutError("the workers did not start")
                time.sleep(0.05)
            time.sleep(0.5)  # until they listen to Redis
            yield processes
        except BaseException:
            log.seek(0)
            print(log.read()[-4_000:].decode(errors="replace"), file=sys.stderr)
            raise
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                _end(process)


def _start(log: Any, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.workers"],
        stdout=log,
        stderr=log,
        env=os.environ | {"RUNS_DRAIN_SECONDS": "1"} | environment,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _work() -> None:
    import django
    from django.core.management import call_command

    from .site import register_agents

    django.setup()
    register_agents()
    from runs.worker import descriptors

    descriptors.PER_RUN = 1  # these agents open no connections, and the usual limit is 20,000
    call_command("runworker")


if __name__ == "__main__":
    _work()
