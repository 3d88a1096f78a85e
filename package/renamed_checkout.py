"""Write a checkout whose packages are below ``halting``, so that its tests test the package.

`python package/renamed_checkout.py FOLDER`, which `make test-package` does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rename import PACKAGES, ROOT, rename, write_package

_CHECKOUT = Path(__file__).resolve().parent.parent
_NAMES = "|".join(PACKAGES)
# Tests and documents have code in strings, and name what they replace: "runs.conf.conf".
_IMPORT_FROM = re.compile(rf"\bfrom ({_NAMES})((?:\.\w+)*) import\b")
_IMPORT = re.compile(rf"\bimport ({_NAMES})(?=\.\w)")
_IMPORT_ALONE = re.compile(rf"^(\s*)import ({_NAMES})$", re.MULTILINE)
_TEXTS = {".py", ".md"}


def write_checkout(target: Path) -> None:
    """Write what git knows of this checkout into a folder, renamed."""
    package = write_package(_CHECKOUT, target)
    modules = {
        ".".join(path.relative_to(_CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
        for name in PACKAGES
        for path in (_CHECKOUT / name).rglob("*.py")
    } - set(PACKAGES)
    paths = re.compile(
        rf"([\"'])((?:{'|'.join(sorted(map(re.escape, modules), key=len, reverse=True))})"
        r"(?:\.\w+)*)(?=[\"':])"
    )
    listed = subprocess.check_output(["git", "ls-files"], cwd=_CHECKOUT, text=True)  # noqa: S607
    for name in listed.splitlines():
        source = _CHECKOUT / name
        if name.startswith(tuple(f"{each}/" for each in PACKAGES)) or not source.is_file():
            continue
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)
        if copy.suffix in _TEXTS and not name.startswith("package/"):
            text = copy.read_text()
            if copy.suffix == ".py":
                text = rename(text.encode(), ()).decode()
            text = _IMPORT_ALONE.sub(rf"\1from {ROOT} import \2", text)
            text = _IMPORT.sub(rf"import {ROOT}.\1", text)
            text = _IMPORT_FROM.sub(rf"from {ROOT}.\1\2 import", text)
            copy.write_text(paths.sub(rf"\1{ROOT}.\2", text))
    settings = target / "project" / "settings.py"
    apps = re.compile(rf'^    "({_NAMES}(?:\.samples)?)",$', re.MULTILINE)
    settings.write_text(apps.sub(rf'    "{ROOT}.\1",', settings.read_text()))
    assert package.is_dir()


if __name__ == "__main__":
    write_checkout(Path(sys.argv[1]))
