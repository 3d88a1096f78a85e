"""Finds an installed Chromium."""

from __future__ import annotations

import shutil

__all__ = ["find_chromium"]

#: The first is the same engine without windows and menus, which no test needs.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)
