"""Call a function with a library's module: at once if it is imported, else after its import.

So nothing is imported that the process does not use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["after_import"]


def after_import(name: str, act: Callable[[ModuleType], object]) -> Callable[[], None]:
    """Call ``act`` with the module; return a function that gives up waiting for its import."""
    module = sys.modules.get(name)
    if module is not None:
        act(module)
        return _nothing
    finder = _Finder(name, act)
    sys.meta_path.insert(0, finder)
    return finder.leave


def _nothing() -> None:
    pass


class _Finder(MetaPathFinder):
    """Finds one module, as the finders after it do, and lets ``act`` follow its execution."""

    def __init__(self, name: str, act: Callable[[ModuleType], object]) -> None:
        self._name = name
        self._act = act

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def executed(self, module: ModuleType) -> None:
        self.leave()
        self._act(module)

    def leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _Loader(Loader):
    def __init__(self, inner: Any, finder: _Finder) -> None:
        self._inner = inner
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._finder.executed(module)
