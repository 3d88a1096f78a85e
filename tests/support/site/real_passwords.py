"""The tests' site with the hashers of production, which take a good part of a second."""

from project.settings import PASSWORD_HASHERS as _REAL
from tests.support.site.settings import *  # noqa: F403

PASSWORD_HASHERS = _REAL
