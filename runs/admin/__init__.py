"""Runs, workers and the data store in Django's admin, for operators."""

from __future__ import annotations

from django.contrib import admin

from ..models import DataStoreEntry, RunRecord, WorkerRecord
from .data_store import DataStoreEntryAdmin
from .run_list import RunRecordAdmin
from .workers import WorkerRecordAdmin

admin.site.register(RunRecord, RunRecordAdmin)
admin.site.register(WorkerRecord, WorkerRecordAdmin)
admin.site.register(DataStoreEntry, DataStoreEntryAdmin)
