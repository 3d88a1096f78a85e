"""The registry's problems, as Django's system checks. Importing this module registers them."""

from __future__ import annotations

from typing import Any

from django.core import checks

from . import registry

__all__ = ["check_agents"]


@checks.register("agents")
def check_agents(app_configs: Any = None, **options: Any) -> list[checks.CheckMessage]:
    """Return an error for each problem in the registry: E001 to E003, as in ``Problem.id``."""
    return [
        checks.Error(
            f'The agent "{problem.agent}" ({problem.where}): {problem.message}',
            hint=problem.hint or None,
            id=problem.id,
        )
        for problem in registry.problems()
    ]
