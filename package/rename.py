"""Put the packages of the checkout below ``halting``, for the wheel.

The checkout has ``agents`` and ``runs`` at its top level. A site may have packages of these names
itself, so the wheel has them as ``halting.agents`` and ``halting.runs``. The build renames imports,
and strings that are the dotted path of a module, such as "runs.asgi.worker.application". It leaves
all other text alone: app labels, permissions, addresses, the names of tools and loggers' messages.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["PACKAGES", "ROOT", "Unclear", "module_names", "rename", "write_package"]

ROOT = "halting"
PACKAGES = ("agents", "runs")
_LEFT_OUT = shutil.ignore_patterns("__pycache__")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

_Edit = tuple[int, int, str]  # from and to, as offsets in the file's bytes, and the new text


class Unclear(Exception):
    """Raised for code that can't be renamed by its own text; the message says where."""


def write_package(checkout: Path, target: Path) -> Path:
    """Write the package ``halting`` into the folder ``target``, and return its own folder."""
    package = target / ROOT
    shutil.copytree(checkout / "package" / ROOT, package, ignore=_LEFT_OUT)
    modules = module_names(checkout)
    for name in PACKAGES:
        shutil.copytree(checkout / name, package / name, ignore=_LEFT_OUT)
        for path in (package / name).rglob("*.py"):
            try:
                path.write_bytes(rename(path.read_bytes(), modules))
            except Unclear as error:
                raise Unclear(f"{path.relative_to(package)}: {error}") from error
    return package


def module_names(checkout: Path) -> frozenset[str]:
    """Return the dotted names of all modules below the packages, without the packages."""
    return frozenset(
        ".".join(
            path.relative_to(checkout).with_suffix("").parts
            if path.name != "__init__.py"
            else path.relative_to(checkout).parent.parts
        )
        for name in PACKAGES
        for path in (checkout / name).rglob("*.py")
    ) - set(PACKAGES)


def rename(source: bytes, modules: Collection[str]) -> bytes:
    """Return a module's source with its imports and dotted paths below ``halting``.

    Args:
        modules: the names of ``module_names``: what a dotted path may lead to.

    Raises:
        Unclear: for ``import runs.models``, which binds a name that the code then uses, and for a
            dotted path that is written in pieces.
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    edits = [
        (starts[first - 1] + column, starts[last - 1] + end, text)
        for first, column, last, end, text in _edits(ast.parse(source), source, starts, modules)
    ]
    for start, end, text in sorted(edits, reverse=True):
        source = source[:start] + text.encode() + source[end:]
    return source


def _edits(
    tree: ast.AST, source: bytes, starts: list[int], modules: Collection[str]
) -> Iterator[tuple[int, int, int, int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level or not node.module or not _is_ours(node.module):
                continue
            old, new = f"from {node.module} ", f"from {ROOT}.{node.module} "
        elif isinstance(node, ast.Import) and any(_is_ours(name.name) for name in node.names):
            if len(node.names) > 1 or ("." in node.names[0].name and not node.names[0].asname):
                raise Unclear(f"line {node.lineno}: write `from ... import`")
            package, _, name = f"{ROOT}.{node.names[0].name}".rpartition(".")
            old, new = f"import {node.names[0].name}", f"from {package} import {name}"
        elif isinstance(node, ast.Constant) and _is_path(node.value, modules):
            old, new = str(node.value), f"{ROOT}.{node.value!s}"
        else:
            continue
        assert node.end_lineno
        assert node.end_col_offset
        place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
        start, end = starts[place[0] - 1] + place[1], starts[place[2] - 1] + place[3]
        text = source[start:end].decode()
        if text.count(old) != 1:
            raise Unclear(f"line {node.lineno}: {text!r} is not written in one piece")
        yield *place, text.replace(old, new)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _is_path(value: object, modules: Collection[str]) -> bool:
    """Tell whether a string is the path of a module, or of a name in one."""
    if not isinstance(value, str) or not _DOTTED.fullmatch(value):
        return False
    return value in modules or value.rpartition(".")[0] in modules
