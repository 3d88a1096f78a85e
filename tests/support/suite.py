"""A separate suite of tests, to see what the project's conftest makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .server import ROOT

__all__ = ["run_suite"]


def run_suite(
    tmp_path: Path, *sources: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one file per source, in order, under the project's conftest and configuration."""
    for number, source in enumerate(sources):
        (tmp_path / f"test_{number}.py").write_text(f"import pytest\n{source}\n")
    clean = {k: v for k, v in os.environ.items() if k not in {"REQUIRE_ALL", "PYTEST_ADDOPTS"}}
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    # A third of the start is plugins that this suite doesn't need.
    command += [f"-pno:{name}" for name in ("anyio", "hypothesispytest", "schemathesis")]
    return subprocess.run(
        [*command, "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        env=clean | {"DATABASE_URL": "", "REDIS_URL": ""} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
