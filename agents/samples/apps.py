"""Makes the samples an app, so that its ``agents.py`` is found."""

from django.apps import AppConfig

__all__ = ["SamplesConfig"]


class SamplesConfig(AppConfig):
    name = "agents.samples"
    label = "agents_samples"
    verbose_name = "Sample agents"
