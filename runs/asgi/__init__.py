"""How a process serves HTTP and sockets, and hosts its worker.

A site's ``asgi.py`` imports ``get_asgi_application`` from here instead of from Django.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .application import App

__all__ = ["get_asgi_application", "is_application_made"]

_made: list[App] = []


def get_asgi_application(site: App | None = None, *, serves_site: bool = False) -> App:
    """Return the ASGI application of a site with agents, and set Django up.

    It answers the addresses of ``runs.urls`` and their sockets, starts and drains the worker of the
    process, and leaves all else to the site.

    Args:
        site: the site's own application for HTTP and sockets; Django's by default.
        serves_site: Halting's handler answers the site's addresses, too. It takes one thread for a
            whole request, so it is for sites whose middleware and views are all synchronous.
    """
    import django

    django.setup(set_prefix=False)
    # Models can be imported from here on.
    from .application import Application
    from .lifespan import Lifespan

    application = Lifespan(Application(site, serves_site=serves_site))
    _made.append(application)
    return application


def is_application_made() -> bool:
    """Tell whether this process has called ``get_asgi_application``."""
    return bool(_made)
