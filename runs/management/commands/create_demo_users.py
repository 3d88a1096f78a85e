"""`manage.py create_demo_users`: demo/demo and admin/admin, for a developer's machine."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from runs.ops.accounts import create_missing_demo_users


class Command(BaseCommand):
    help = (
        "Create the users demo/demo (ordinary) and admin/admin (superuser) if they are missing. "
        "Only in debug mode. An existing user keeps its password."
    )
    requires_migrations_checks = True

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError(
                "These passwords are public: the demo users are created only with DJANGO_DEBUG=1."
            )
        for user in create_missing_demo_users():
            self.stdout.write(f"Created the user {user}.")
