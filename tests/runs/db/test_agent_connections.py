"""Connections of threads that agents start themselves."""

from __future__ import annotations

import os

from runs.db import agent_connections


def test_a_forked_child_leaves_the_connections_of_other_threads_alone() -> None:
    """They are the parent's; and one that is in use there stays locked in the child for ever."""
    returned: list[str] = []

    class Connection:
        def rollback(self) -> None:
            returned.append("rolled back")

    class Wrapper:
        alias = "default"
        connection = Connection()

        def close(self) -> None:
            returned.append("closed")

    left = agent_connections._Returning()
    left.wrappers["default"] = Wrapper()  # type: ignore[assignment]
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        del left
        os.write(writer, str(returned).encode())
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        os.close(writer)
        assert answer.read() == b"[]"
    del left
    assert returned == ["rolled back", "closed"], "in the process that has opened it"
