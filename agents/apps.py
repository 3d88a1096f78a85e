"""With ``checks``, the one module of this package that knows Django."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

__all__ = ["AgentsConfig"]


class AgentsConfig(AppConfig):
    name = __package__
    label = "halting_agents"  # it has no models, and a site may have an app named agents
    verbose_name = "Agents"

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers the system checks

        autodiscover_modules("agents")
