"""`manage.py drf_create_token USER`: make an API token, in place of the command of that name."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from runs.identity import tokens
from runs.identity.models import MAX_NAME_LENGTH
from runs.management.records import find_user


class Command(BaseCommand):
    help = "Make an API token for a user, and print it. It can't be printed again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "-r", "--reset", action="store_true", help="revoke the user's other tokens first"
        )
        parser.add_argument("--name", default="", help="what the token is for")
        parser.add_argument(
            "--expires-seconds", type=float, help="how long it lasts; API_TOKEN_DAYS by default"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        user = find_user(options["username"], may_be_inactive=True)
        if len(options["name"]) > MAX_NAME_LENGTH:
            raise CommandError(f"A name has at most {MAX_NAME_LENGTH} characters.")
        if options["reset"]:
            for token in tokens.live_of(user).select_related("user"):
                tokens.remove(token)
        try:
            key, _ = tokens.create(user, name=options["name"], seconds=options["expires_seconds"])
        except tokens.TooManyTokens as error:
            raise CommandError(f"The user has {tokens.MOST_PER_USER} tokens.") from error
        self.stdout.write(f"Generated token {key} for user {user.get_username()}")
