"""File descriptors: how many this process may have open, and how many runs that is enough for.

A run itself uses none. Each of its outgoing calls uses one for its connection. A second one may be
opening (to a host with IPv4 and IPv6, two at a time), closing, or kept for the next call. So two
are reserved for each run. An agent with many calls in flight at once uses more: a worker therefore
counts again before each claim. Threads of ``def`` agents use none.

The reserve is for everything else: up to 20 connections to PostgreSQL (or SQLite's three files for
each of about ten threads), a few to Redis, requests, files. Without it a worker that has taken too
many runs could not write their endings.
"""

from __future__ import annotations

import os
import resource

__all__ = ["enough_for", "open_count", "raise_limit"]

PER_RUN = 2
MOST_RESERVED = 128
_MOST = 1 << 20  # more than any worker needs; some systems say "unlimited" and mean less


def raise_limit() -> int:
    """Raise the soft limit of this process to the hard one; return the limit."""
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
    """Return how many are open now; 0 if the system doesn't say. Takes a few microseconds."""
    try:
        # Since Linux 6.2 the directory's size is the count; listing 10,000 takes milliseconds.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def enough_for(limit: int, used: int) -> int:
    """Return how many more runs the descriptors are enough for, with ``used`` of ``limit`` open."""
    reserved = min(MOST_RESERVED, limit // 4)
    return max(0, limit - reserved - used) // PER_RUN
