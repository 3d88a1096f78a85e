#!/usr/bin/env python
"""Django's command line for this project."""

import os
import sys

from project.standard_streams import make_robust


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    make_robust()
    try:
        from django.core.management import execute_from_command_line
    except ImportError as error:
        raise SystemExit(
            f"Django can't be imported ({error}). Use the project's own environment: "
            "`make run`, or .venv/bin/python manage.py ..."
        ) from error
    from django.core.exceptions import ImproperlyConfigured

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        # The message names the setting; the way to the parser that refused it helps nobody.
        if "--traceback" in sys.argv:
            raise
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
