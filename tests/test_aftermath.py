"""A failed test fails no other test, whatever garbage it leaves."""

from __future__ import annotations

from pathlib import Path

from tests.support.suite import run_suite

_LEAVES = """
import gc, socket

def test_it():
    left = [socket.create_server(("127.0.0.1", 0))]
    left.append(left)  # a cycle: only the garbage collector frees it
"""


def test_garbage_of_a_failed_test_fails_no_other_test(tmp_path: Path) -> None:
    others = "import gc\n\ndef test_one(): gc.collect()\n\ndef test_other(): gc.collect()"
    done = run_suite(tmp_path, f"{_LEAVES}    assert False\n", others)
    assert "1 failed, 2 passed in" in done.stdout.splitlines()[-1], done.stdout


def test_garbage_of_another_test_is_reported(tmp_path: Path) -> None:
    done = run_suite(tmp_path, f"{_LEAVES}    del left\n    gc.collect()\n")
    assert "ResourceWarning: unclosed <socket.socket" in done.stdout
    assert "1 failed in" in done.stdout.splitlines()[-1], done.stdout
