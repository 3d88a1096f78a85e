"""The operator's desk in Django's admin. What stands here only registers it."""

from __future__ import annotations

from django.contrib import admin

from ..models import DataStoreEntry, RunRecord, WorkerRecord
from .data_store import DataStoreEntryAdmin
from .run_list import RunRecordAdmin
from .workers import WorkerRecordAdmin

admin.site.register(RunRecord, RunRecordAdmin)
admin.site.register(WorkerRecord, WorkerRecordAdmin)
admin.site.register(DataStoreEntry, DataStoreEntryAdmin)
