"""The process between a worker and a program that an agent runs: it ends the program.

``calls`` runs this file with an interpreter that imports nothing by itself. It starts the program
in a process group of its own, and passes its exit on. It ends the whole group when the worker asks
for that or is gone, however the worker went. It must not import anything of ``agents``.

Arguments: the descriptor of a pipe from the worker, the worker's process id, the seconds between
SIGTERM and SIGKILL, the program and its arguments. A byte in the pipe asks for SIGTERM and then
SIGKILL; the pipe's end means that the worker is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

NOT_FOUND, NOT_STARTED = 127, 126  # as shells exit


def main() -> None:
    pipe, worker, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    # Before the fork: the worker may be gone by then.
    _tell_of_the_end_of(worker)
    group: list[int] = []

    def kill(*_: Any) -> None:
        if group:
            _signal(group[0], signal.SIGKILL)
        os._exit(1)

    signal.signal(signal.SIGTERM, kill)  # the kernel's word that the worker is gone
    if os.getppid() != worker:
        os._exit(1)
    program = os.fork()
    if not program:
        _become(sys.argv[4:], pipe)
    with contextlib.suppress(OSError):  # the program may have done it, and have gone on
        os.setpgid(program, program)
    group.append(program)
    for descriptor in (0, 1, 2):  # the program's own: its end is to be seen as theirs
        os.close(descriptor)
    threading.Thread(target=_listen, args=(pipe, program, seconds), daemon=True).start()
    if hasattr(os, "waitid"):  # while it is not reaped, its id is no other group's
        os.waitid(os.P_PID, program, os.WEXITED | os.WNOWAIT)
        _signal(program, signal.SIGKILL)  # what it has left in its group
    _, status = os.waitpid(program, 0)
    _exit_as(os.waitstatus_to_exitcode(status))


def _become(argv: list[str], pipe: int) -> None:
    """Be the program."""
    os.close(pipe)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _tell_of_the_end_of(os.getppid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Python ignores these two, and programs expect them.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is to read the arguments
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED)


def _listen(pipe: int, program: int, seconds: float) -> None:
    if not os.read(pipe, 1):  # the worker is gone
        _signal(program, signal.SIGKILL)
        return
    _signal(program, signal.SIGTERM)
    timer = threading.Timer(seconds, _signal, (program, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    os.read(pipe, 1)
    _signal(program, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the group has ended
        os.killpg(group, number)


def _tell_of_the_end_of(parent: int, number: int = signal.SIGTERM) -> None:
    """Have the kernel send a signal to this process when its parent ends, where it can (Linux)."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _exit_as(returncode: int) -> None:
    """End as the program has ended, so that the worker sees its exit."""
    if returncode < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-returncode, signal.SIG_DFL)
        with contextlib.suppress(ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -returncode)
    os._exit(returncode if returncode >= 0 else 128 - returncode)


if __name__ == "__main__":
    main()
