"""Runs, workers, the data store and quotas in Django's admin, for operators."""

from __future__ import annotations

from django.contrib import admin

from ..models import DataStoreEntry, OwnerUsage, RunRecord, WorkerRecord
from . import users
from .data_store import DataStoreEntryAdmin
from .run_list import RunRecordAdmin
from .usage import OwnerUsageAdmin
from .workers import WorkerRecordAdmin

admin.site.register(RunRecord, RunRecordAdmin)
admin.site.register(WorkerRecord, WorkerRecordAdmin)
admin.site.register(DataStoreEntry, DataStoreEntryAdmin)
admin.site.register(OwnerUsage, OwnerUsageAdmin)
users.register()
