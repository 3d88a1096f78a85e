"""Sites whose users are not Django's own, for ``new_site``."""

from __future__ import annotations

from pathlib import Path

from .new_site import NewSite

__all__ = ["AGENTS", "add_people", "site_of_people"]

#: A user without a username and without Django's ``objects``; the key is a UUID.
_PERSON = """
import uuid
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models


class PersonManager(BaseUserManager):
    def create_user(self, email, password=None, **more):
        person = self.model(email=email, **more)
        person.set_password(password)
        person.save(using=self._db)
        return person

    def create_superuser(self, email, password=None):
        return self.create_user(email, password, is_staff=True, is_superuser=True)


class Person(AbstractBaseUser, PermissionsMixin):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    people = PersonManager()
    USERNAME_FIELD = "email"
"""
_ADMIN = """
from django.contrib import admin
from .models import Person

@admin.register(Person)
class PersonAdmin(admin.ModelAdmin):
    list_display = ("email",)
"""

#: The least that Django calls a user: no permissions, no flags; the key is any text.
_SUBSCRIBER = """
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class SubscriberManager(BaseUserManager):
    def create_user(self, phone, password=None):
        subscriber = self.model(phone=phone, code=f"№ {phone} / a")
        subscriber.set_password(password)
        subscriber.save(using=self._db)
        return subscriber


class Subscriber(AbstractBaseUser):
    code = models.CharField(primary_key=True, max_length=300)
    phone = models.CharField(unique=True, max_length=300)
    objects = SubscriberManager()
    USERNAME_FIELD = "phone"
"""

_MODELS = {"Person": _PERSON, "Subscriber": _SUBSCRIBER}

AGENTS = """
import asyncio
from halting.agents import Tools, agent

@agent("greet")
async def greet(tools: Tools, name: str) -> str:
    await tools.data_store.set("greeted", name)
    return f"Hello, {name}."

@agent("wait")
async def wait(tools: Tools) -> str:
    while True:
        await tools.data_store.set("beat", 1)
        await asyncio.sleep(0.02)
"""


def add_people(site: NewSite, model: str) -> None:
    """Add an app with a user model, ``Person`` or ``Subscriber``, and its migration."""
    site.write("people/__init__.py", "")
    site.write("people/models.py", _MODELS[model])
    if model == "Person":
        site.write("people/admin.py", _ADMIN)
    site.append(
        "mysite/settings.py",
        f'INSTALLED_APPS = [*INSTALLED_APPS, "people"]\nAUTH_USER_MODEL = "people.{model}"\n',
    )
    site.manage("makemigrations", "people")


def site_of_people(folder: Path, package: Path, model: str, settings: str = "") -> NewSite:
    """Return a site that has agents and users of this model, and no database yet."""
    site = NewSite(folder, package, settings=settings)
    site.add_agents(AGENTS)
    add_people(site, model)
    return site
