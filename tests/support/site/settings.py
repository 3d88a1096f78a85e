"""The project's settings, and the agents of this app."""

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.support.site"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# Nobody edits a style sheet while a test runs: looked up once, not for each of a page's files.
WHITENOISE_AUTOREFRESH = False
