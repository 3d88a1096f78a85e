"""Hatchling's hook: a wheel has the checkout's packages below ``halting`` (rename.py)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from rename import PACKAGES, ROOT, write_package


class HaltingBuildHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if version == "editable":
            raise RuntimeError(
                "Halting can't be installed as editable: in a checkout use `make venv`, "
                "and for a site build a wheel with `make package`."
            )
        self._folder = tempfile.TemporaryDirectory(prefix="halting-wheel-")
        package = write_package(Path(self.root), Path(self._folder.name))
        for name in PACKAGES:
            build_data["force_include"][str(package / name)] = f"{ROOT}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.target_name == "wheel":
            self._folder.cleanup()
