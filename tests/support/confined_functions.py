"""Functions for processes with limits: each does one thing that it must not get away with."""

from __future__ import annotations

import json
import os
import re
import sys


def shout(content: bytes, about: str) -> str:
    print("this is no answer")
    return f"{content.decode().upper()} {about}"


def surroundings(content: bytes, about: str) -> str:
    """Return what the process has of its parent, as JSON."""
    open_files = [int(name) for name in os.listdir("/proc/self/fd")]
    return json.dumps(
        {
            "environment": dict(os.environ),
            "files": [number for number in open_files if number < 1_000],
            "niceness": os.nice(0),
            "group": os.getpgid(0) == os.getpid(),
            "modules": [name for name in sys.modules if name.split(".")[0] in ("agents", "django")],
            "directory": os.getcwd(),
        }
    )


def spin(content: bytes, about: str) -> str:
    while True:
        pass


def spin_in_c(content: bytes, about: str) -> str:
    """Hold the interpreter's lock, so that no other thread of the process runs."""
    re.match(r"(a+)+b", "a" * 60)
    return "never"


def eat(content: bytes, about: str) -> str:
    return str(len(bytearray(4_000_000_000)))


def write(content: bytes, about: str) -> str:
    with open(about, "wb") as file:
        file.write(content)
    return "written"


def refuse(content: bytes, about: str) -> str:
    raise ValueError(f"{about} is refused")


def fail(content: bytes, about: str) -> str:
    raise KeyError(about)


def crash(content: bytes, about: str) -> str:
    os.abort()


def flood(content: bytes, about: str) -> str:
    return "x" * 1_000_000
