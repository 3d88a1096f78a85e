"""The wheel's code is the checkout's, below ``halting``."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.new_site import CHECKOUT


def _load() -> ModuleType:
    # The folder is no package: its name would hide others that have it.
    spec = importlib.util.spec_from_file_location("rename", CHECKOUT / "package" / "rename.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _load()
MODULES = {"runs.conf", "runs.asgi", "runs.asgi.worker", "agents.tools"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import runs", "from halting import runs"),
        ("import runs as r", "from halting import runs as r"),
        ("import runs.conf as c", "from halting.runs import conf as c"),
        ("from runs import conf", "from halting.runs import conf"),
        (
            "def f():\n    from runs.conf import (\n        conf)",
            "def f():\n    from halting.runs.conf import (\n        conf)",
        ),
        ("from . import conf", "from . import conf"),
        ("import runsize", "import runsize"),
        ('x = "runs.asgi.worker.application"', 'x = "halting.runs.asgi.worker.application"'),
        ("x = 'runs.conf'", "x = 'halting.runs.conf'"),
        ('x = "é", "runs.conf"', 'x = "é", "halting.runs.conf"'),
        # Labels, permissions, tools and sentences are no paths.
        ('x = "runs.RunRecord"', 'x = "runs.RunRecord"'),
        ('x = "runs.stop_runrecord"', 'x = "runs.stop_runrecord"'),
        ('x = "agents.call"', 'x = "agents.call"'),
        ('x = "see runs.conf"', 'x = "see runs.conf"'),
        ('x = "runs"', 'x = "runs"'),
        ("# from runs import conf", "# from runs import conf"),
        ("x = runs.conf", "x = runs.conf"),
    ],
)
def test_imports_and_paths_are_renamed(before: str, after: str) -> None:
    assert tool.rename(before.encode(), MODULES).decode() == after


@pytest.mark.parametrize(
    "source",
    ["import runs.conf", "import os, runs", 'x = ("runs."\n     "conf")', r'x = "runs\x2econf"'],
)
def test_what_is_unclear_is_refused(source: str) -> None:
    with pytest.raises(tool.Unclear, match="line 1"):
        tool.rename(source.encode(), MODULES)


def test_no_module_of_the_package_imports_a_package_of_the_checkout(tmp_path: Path) -> None:
    package = tool.write_package(CHECKOUT, tmp_path)
    known = {*sys.stdlib_module_names, "halting"}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            for name in names:
                top = name.partition(".")[0]
                assert top in known or top not in {"agents", "runs", "project", "tests"}, path
    assert len(list(package.rglob("*.py"))) > 200
    assert (package / "runs" / "templates" / "runs" / "run.html").is_file()
    assert not list(package.rglob("__pycache__"))
