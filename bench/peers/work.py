"""A worker process of one system: ``python -m bench.peers.work ADAPTER CONCURRENCY``."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    importlib.import_module(f"bench.peers.adapters.{sys.argv[1]}").work(int(sys.argv[2]))
