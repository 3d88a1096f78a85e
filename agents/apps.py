"""With ``checks``, the one module of this package that knows Django."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

__all__ = ["AgentsConfig"]


class AgentsConfig(AppConfig):
    name = "agents"
    verbose_name = "Agents"

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers the system checks

        autodiscover_modules("agents")
