"""Where an installed Chromium is."""

from __future__ import annotations

import shutil

__all__ = ["find_chromium"]

#: The first is the same engine without a desktop's worth of windows and menus around it, none of
#: which a test looks at.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)
