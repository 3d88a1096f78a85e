"""`manage.py create_demo_users`: demo/demo and admin/admin, for a developer's machine."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

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
        try:
            created = create_missing_demo_users()
        except (TypeError, ValueError, DatabaseError) as error:  # it asks for more than a name
            raise CommandError(f"This site's users can't be made like that: {error}") from error
        for user in created:
            self.stdout.write(f"Created the user {user}.")
