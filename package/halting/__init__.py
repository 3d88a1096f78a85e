"""Run LLM agents in Django, watch them live, and stop any one of them for real."""

__all__ = ["__version__"]

__version__ = "0.2.0"
