"""Makes the samples an app, so that its ``agents.py`` is found."""

from django.apps import AppConfig

__all__ = ["SamplesConfig"]


class SamplesConfig(AppConfig):
    name = __package__
    label = "halting_samples"
    verbose_name = "Sample agents"
