"""Imports point down. The table is the architecture (DESIGN, section 2), top to bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("project", "runs", "agents")

# A row may import from its own row and from every row below. The longest name that fits a module
# decides, so a package stands for all that is in it unless a row names one of its modules.
LAYERS = [
    ("project",),
    # --- runs: the doors
    ("runs.apps", "runs.management"),
    ("runs.admin",),  # above the pages: a run is shown there by their parts
    ("runs.pages",),  # above the API: its Stop is the API's, with another name for the door
    ("runs.api", "runs.consumers", "runs.health", "runs.scrape", "runs.server", "runs.sockets"),
    ("runs.templatetags",),
    # --- runs: what works
    ("runs.worker",),
    ("runs.caretaker",),
    ("runs.executor", "runs.recorder", "runs.watchdog"),
    ("runs.children", "runs.started"),
    (
        "runs.services",
        "runs.stopping",
        "runs.store",
        "runs.keeper",
        "runs.leases",
        "runs.retention",
        "runs.endings",
        "runs.news",
        "runs.transitions",
        "runs.queue",
        "runs.limits",
    ),
    ("runs.feed",),
    (
        "runs.active",
        "runs.audience",
        "runs.events",
        "runs.live",
        "runs.presentation",
        "runs.redis_layer",
        "runs.relay",
        "runs.wire",
    ),
    # --- runs: what is
    ("runs.audit", "runs.operators"),
    (
        "runs.models",
        "runs.statements",
        "runs.planning",
        "runs.descriptors",
        "runs.room",
        "runs.migrations",
        "runs.database",
        "runs.demo_users",
        "runs.checks",
    ),
    (
        "runs",
        "runs.status",
        "runs.processes",
        "runs.exceptions",
        "runs.conf",
        "runs.connecting",
        "runs.uuids",
        "runs.receipts",
        "runs.wording",
        "runs.logs",
        "runs.metrics",
        "runs.probing",
        "runs.tasks",
    ),
    # --- agents: a plain asyncio library
    ("agents.apps", "agents.checks", "agents.samples", "agents.testing"),
    ("agents",),  # the names that an agent's author imports
    ("agents.runtime",),
    ("agents.tools",),
    ("agents.registry", "agents.signatures", "agents.guard", "agents.environment"),
    ("agents.trace", "agents.cancellation", "agents.output", "agents.redaction"),
    ("agents.exceptions", "agents.jsonable", "agents.options", "agents.storable"),
]

# What a module must not know, beside what is above it. Prefixes again, exceptions after them.
STRANGERS = [
    ("agents", ("django", "channels", "rest_framework"), ("agents.apps", "agents.checks",
                                                          "agents.samples.apps")),
    ("runs.executor", ("channels",), ()),
]  # fmt: skip

_ROWS = {name: row for row, names in enumerate(LAYERS) for name in names}


def test_imports_point_down() -> None:
    upward = [
        f"{module} (line {line}) imports {target}"
        for module, line, target in _own_imports()
        if _row(target) < _row(module)
    ]
    assert not upward, "upward imports:\n" + "\n".join(upward)


def test_every_module_has_its_place() -> None:
    homeless = [module for module in _modules() if _placed_as(module) is None]
    assert not homeless, f"place me in LAYERS: {', '.join(homeless)}"


def test_strangers_stay_out() -> None:
    known = [
        f"{module} (line {line}) imports {target}"
        for module, line, target in _imports()
        for package, strangers, exceptions in STRANGERS
        if _is_within(module, package)
        and module not in exceptions
        and any(_is_within(target, stranger) for stranger in strangers)
    ]
    assert not known, "imports of strangers:\n" + "\n".join(known)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import runs.models", ["runs.models"]),
        ("from runs import models", ["runs.models"]),
        ("from runs.conf import conf", ["runs.conf"]),
        ("from . import models", ["runs.models"]),
        ("def f():\n    from .conf import conf", ["runs.conf"]),
        ("if TYPE_CHECKING:\n    import runs.models", []),
        ("if typing.TYPE_CHECKING:\n    import a\nelse:\n    import runs.conf", ["runs.conf"]),
    ],
)
def test_the_reader_of_imports(source: str, expected: list[str]) -> None:
    modules = {"runs", "runs.models", "runs.conf", "agents"}
    found = _read_imports(ast.parse(source), package="runs", modules=modules)
    assert [target for _, target in found] == expected


def test_the_reader_follows_dots() -> None:
    tree = ast.parse("from ..conf import conf\nfrom .. import models\nfrom .views import View")
    found = _read_imports(tree, package="runs.api", modules={"runs", "runs.models", "runs.conf"})
    assert [target for _, target in found] == ["runs.conf", "runs.models", "runs.api.views"]


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports() -> Iterator[tuple[str, int, str]]:
    modules = _modules()
    for module, path in modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, target in _read_imports(tree, package, set(modules)):
            yield module, line, target


def _own_imports() -> Iterator[tuple[str, int, str]]:
    for module, line, target in _imports():
        is_own = target.partition(".")[0] in PACKAGES
        if is_own and _placed_as(module) is not None and _placed_as(target) is not None:
            yield module, line, target


def _read_imports(node: ast.AST, package: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for branch in child.orelse:
                yield from _read_imports(ast.Module([branch], []), package, modules)
        elif isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - child.level + 1] if child.level else []
            source = ".".join([*base, *([child.module] if child.module else [])])
            for alias in child.names:
                submodule = f"{source}.{alias.name}"
                yield child.lineno, submodule if submodule in modules else source
        else:
            yield from _read_imports(child, package, modules)


def _row(module: str) -> int:
    name = _placed_as(module)
    assert name is not None
    return _ROWS[name]


def _placed_as(module: str) -> str | None:
    """Return the entry of LAYERS that decides about a module."""
    candidates = [name for name in _ROWS if _is_within(module, name)]
    # A bare package stands for its __init__, or it would take in every module that is new.
    candidates = [name for name in candidates if name == module or name not in {"runs", "agents"}]
    return max(candidates, key=len, default=None)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
