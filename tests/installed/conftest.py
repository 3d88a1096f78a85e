from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.new_site import write_package


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the wheel has it, for PYTHONPATH."""
    return write_package(tmp_path_factory.mktemp("package"))
