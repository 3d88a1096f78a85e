"""The operator's desk in Django's admin. What stands here only registers it."""

from __future__ import annotations

from django.contrib import admin

from ..models import RunRecord
from .run_list import RunRecordAdmin

admin.site.register(RunRecord, RunRecordAdmin)
