"""File descriptors: how many this process may have open, and how many runs that is enough for.

A run itself has none. Each of its calls that goes out is a connection, hence one; another is being
opened (to a host with two kinds of addresses, two at a time), being closed, or kept for the next
call. So two are put aside for each run. An agent that has many calls in flight at once takes more,
which is why a worker looks again before each claim. Threads of ``def`` agents need none of their
own.

The reserve is for everything else: up to 20 connections to PostgreSQL (or SQLite's three files for
each of some ten threads), a handful to Redis, visitors, files. Without it a worker that has taken
too much could not write down how its runs end.
"""

from __future__ import annotations

import os
import resource

__all__ = ["enough_for", "open_count", "raise_limit"]

PER_RUN = 2
MOST_RESERVED = 128
_MOST = 1 << 20  # more than anybody needs; some systems say "unlimited" and mean less


def raise_limit() -> int:
    """Let this process open as many as it may at all; return how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # the kernel's own limit is lower, or a sandbox forbids it
            return soft
        return wanted
    return _MOST if soft == resource.RLIM_INFINITY else soft


def open_count() -> int:
    """Return how many are open now; 0 where the system doesn't say. Takes some microseconds."""
    try:
        # Since Linux 6.2 the directory's size is their number; listing 10,000 takes milliseconds.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def enough_for(limit: int, used: int) -> int:
    """Return for how many more runs there are descriptors, if ``used`` of ``limit`` are open."""
    reserved = min(MOST_RESERVED, limit // 4)
    return max(0, limit - reserved - used) // PER_RUN
