"""A library is patched when it is imported, and not imported for that."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from agents.tools.everything.importing import after_import


def test_it_waits_for_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_later.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[ModuleType] = []
    before = list(sys.meta_path)
    after_import("imported_later", modules.append)
    assert modules == []
    import imported_later  # type: ignore[import-not-found]

    assert modules == [imported_later]
    assert imported_later.answer == 42
    assert imported_later.__spec__.loader is imported_later.__loader__
    assert type(imported_later.__loader__).__module__.startswith(("_frozen", "importlib"))
    assert sys.meta_path == before
    after_import("imported_later", modules.append)
    assert modules == [imported_later, imported_later]
    del sys.modules["imported_later"]


def test_it_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_never.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[ModuleType] = []
    after_import("imported_never", modules.append)()
    importlib.import_module("imported_never")
    assert modules == []
    del sys.modules["imported_never"]


def test_nothing_is_imported_at_start_up() -> None:
    code = (
        "import sys; from agents import guard_everything; guard_everything()\n"
        "assert not {'aiohttp', 'requests', 'urllib3'} & set(sys.modules), 'imported'\n"
        "import urllib3\n"
        "assert hasattr(urllib3.HTTPConnectionPool.urlopen, '__wrapped__'), 'not guarded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
