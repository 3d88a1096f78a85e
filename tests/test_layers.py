"""Imports point down. The table is the architecture (DESIGN, section 2), top to bottom."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("project", "runs", "agents")
MOST_MODULES = 13  # of a folder

# A module may import from its own row and from all rows below. The longest name that fits the
# module decides: a package covers all of its modules that have no row of their own.
LAYERS = [
    ("project",),
    # --- runs: the ways in
    ("runs.apps", "runs.management", "runs.urls"),
    ("runs.asgi",),  # a process that serves: above all that it serves
    ("runs.admin",),  # above the pages: a run is shown there by their parts
    ("runs.ops.metrics_view",),  # above the feed, whose readers it counts
    ("runs.consumers",),
    ("runs.web.sockets",),
    ("runs.web.pages",),  # above the API: its Stop is the API's, with another name for the door
    ("runs.web.api",),
    ("runs.client",),  # for the site's own code, by the feed and the services
    ("runs.web.feed",),
    ("runs.web", "runs.templatetags"),
    # --- runs: a process that executes agents
    ("runs.worker",),
    ("runs.ops",),
    # --- runs: every write to a run
    ("runs.actions",),
    ("runs.quotas",),
    ("runs.queue",),
    ("runs.delivery", "runs.signals"),
    # --- runs: who a client is
    ("runs.identity",),
    # --- runs: what a run is, and how it reads
    ("runs.wording",),
    ("runs.wire", "runs.transitions", "runs.events"),
    ("runs.models", "runs.migrations"),
    ("runs.db", "runs.checks"),
    ("runs.telemetry",),
    ("runs.conf", "runs.exceptions", "runs.process", "runs.status"),
    ("runs",),
    # --- agents: a plain asyncio library
    ("agents.apps", "agents.checks", "agents.samples", "agents.testing"),
    ("agents",),  # the names that an agent's author imports
    ("agents.runtime",),
    ("agents.tools",),
    ("agents.process",),
    ("agents.registry", "agents.signatures", "agents.guard", "agents.environment"),
    ("agents.trace", "agents.cancellation", "agents.output"),
    ("agents.exceptions", "agents.options", "agents.values", "agents.wire"),
]

# Packages that a module must not import, even from a row below. Prefixes, then exceptions.
FORBIDDEN = [
    ("agents", ("django", "channels", "rest_framework"), ("agents.apps", "agents.checks",
                                                          "agents.samples.apps")),
    ("runs.worker.executor", ("channels",), ()),
]  # fmt: skip

_ROWS = {name: row for row, names in enumerate(LAYERS) for name in names}


def test_imports_point_down() -> None:
    upward = [
        f"{module} (line {line}) imports {target}"
        for module, line, target in _own_imports()
        if _row(target) < _row(module)
    ]
    assert not upward, "upward imports:\n" + "\n".join(upward)


def test_imports_have_no_circle() -> None:
    """Imports for type checkers count as well: a reader follows them, too."""
    graph: dict[str, set[str]] = {module: set() for module in _modules()}
    for module, _, target in _imports(for_readers=True):
        if target in graph and target != module:
            graph[module].add(target)
    while leaves := {module for module, targets in graph.items() if not targets}:
        graph = {m: targets - leaves for m, targets in graph.items() if m not in leaves}
    # The remaining modules are in a circle, or import one.
    inner = {m for m in graph if any(m in targets for targets in graph.values())}
    assert not graph, f"circles of imports among: {', '.join(sorted(inner))}"


def test_no_folder_has_too_many_modules() -> None:
    counts = Counter(path.parent for path in _modules().values() if path.name != "__init__.py")
    large = {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_MODULES}
    assert not large, f"too many modules in a folder: {large}"


def test_every_module_has_a_row() -> None:
    missing = [module for module in _modules() if _entry_of(module) is None]
    assert not missing, f"missing in LAYERS: {', '.join(missing)}"


def test_forbidden_packages_are_not_imported() -> None:
    known = [
        f"{module} (line {line}) imports {target}"
        for module, line, target in _imports()
        for package, names, exceptions in FORBIDDEN
        if _is_within(module, package)
        and module not in exceptions
        and any(_is_within(target, name) for name in names)
    ]
    assert not known, "forbidden imports:\n" + "\n".join(known)


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
def test_imports_are_read(source: str, expected: list[str]) -> None:
    modules = {"runs", "runs.models", "runs.conf", "agents"}
    found = _read_imports(ast.parse(source), package="runs", modules=modules)
    assert [target for _, target in found] == expected


def test_relative_imports_are_resolved() -> None:
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


def _imports(*, for_readers: bool = False) -> Iterator[tuple[str, int, str]]:
    modules = _modules()
    for module, path in modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, target in _read_imports(tree, package, set(modules), for_readers):
            yield module, line, target


def _own_imports() -> Iterator[tuple[str, int, str]]:
    for module, line, target in _imports():
        is_own = target.partition(".")[0] in PACKAGES
        if is_own and _entry_of(module) is not None and _entry_of(target) is not None:
            yield module, line, target


def _read_imports(
    node: ast.AST, package: str, modules: set[str], for_readers: bool = False
) -> Iterator[tuple[int, str]]:
    for child in ast.iter_child_nodes(node):
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if isinstance(child, ast.If) and is_typing and not for_readers:
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
            yield from _read_imports(child, package, modules, for_readers)


def _row(module: str) -> int:
    name = _entry_of(module)
    assert name is not None
    return _ROWS[name]


def _entry_of(module: str) -> str | None:
    """Return the entry of LAYERS that decides about a module."""
    candidates = [name for name in _ROWS if _is_within(module, name)]
    # A bare package covers only its __init__; otherwise it would cover every new module.
    candidates = [name for name in candidates if name == module or name not in {"runs", "agents"}]
    return max(candidates, key=len, default=None)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
