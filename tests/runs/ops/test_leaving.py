"""Which threads count as left behind when a process ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import agents
from runs.ops.leaving import leave, threads_left

SECONDS = 10.0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    release = threading.Event()
    yield release
    release.set()


def wait_here(event: threading.Event, arrived: threading.Event) -> None:
    arrived.set()
    event.wait(SECONDS)


def named(function: str) -> list[str]:
    return [name for name in threads_left() if name.startswith(f"{function} (")]


@pytest.mark.parametrize("is_daemon", [False, True], ids=["thread", "daemon"])
def test_code_of_an_agent_is_named_with_its_line(release: threading.Event, is_daemon: bool) -> None:
    arrived = threading.Event()
    thread = threading.Thread(target=wait_here, args=[release, arrived], daemon=is_daemon)
    thread.start()
    assert arrived.wait(SECONDS)
    [name] = named("wait_here")
    assert name.startswith("wait_here (test_leaving.py:")
    release.set()
    thread.join(SECONDS)
    assert named("wait_here") == []


def test_an_idle_thread_of_a_pool_is_none_of_it(release: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        before = threads_left()
        arrived = threading.Event()
        done = pool.submit(wait_here, release, arrived)
        assert arrived.wait(SECONDS)
        assert len(threads_left()) == len(before) + 1
        release.set()
        done.result(SECONDS)


@pytest.mark.parametrize(
    ("folder", "is_daemon", "counts"),
    [
        ("ours", False, False),
        ("ours", True, False),
        ("samples", True, True),
        ("packages", False, True),
        ("packages", True, False),
        ("standard library", False, False),
    ],
)
def test_whose_code_it_is_tells_its_file(folder: str, is_daemon: bool, counts: bool) -> None:
    own = Path(str(agents.__file__)).parent
    folders = {
        "ours": own / "process",
        "samples": own / "samples",
        "packages": Path(pytest.__file__).parent,
        "standard library": Path(queue.__file__).parent,
    }
    waiting: queue.SimpleQueue[None] = queue.SimpleQueue()
    code = compile("def planted(wait):\n    wait()\n", str(folders[folder] / "planted.py"), "exec")
    names: dict[str, Callable[..., None]] = {}
    exec(code, names)
    # With no other frame of these tests in it.
    thread = threading.Thread(target=names["planted"], args=[waiting.get], daemon=is_daemon)
    thread.start()
    try:
        assert bool(named("planted")) is counts
    finally:
        waiting.put(None)
        thread.join(SECONDS)


def test_without_such_a_thread_the_process_just_goes_on() -> None:
    leave(3)
