"""What the tests of commands share."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User


@pytest.fixture
def demo(transactional_db: None, options: Any) -> User:
    return User.objects.create_user("demo", password="demo")
