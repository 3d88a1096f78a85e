"""Agents that change what all runs of a process share."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import warnings
from typing import Any

from agents import SyncTools, Tools, agent, check_should_stop


def _bend() -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL)
    logging.disable()
    warnings.simplefilter("ignore")
    os.chdir("/")
    os.environ["OWNERS_KEY"] = "secret-of-the-owner"


@agent("site-bend")
async def bend(tools: Tools) -> str:
    """Change all that, and redirect what is printed until a stop."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        print("bent")
        _bend()
        tools.log("bent")
        with contextlib.suppress(BaseException):
            while True:
                await asyncio.sleep(0.01)
                check_should_stop()
    return printed.getvalue()


@agent("site-bend-def")
def bend_def(tools: SyncTools) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        print("bent")
        _bend()
    return printed.getvalue()


@agent("site-report")
async def report(tools: Tools) -> dict[str, Any]:
    """Tell what it finds; print a line, and log one."""
    print("printed")
    logging.getLogger("an.agent").warning("reported")
    return {"folder": os.getcwd(), "key": os.environ.get("OWNERS_KEY")}
