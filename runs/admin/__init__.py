"""Runs, workers, the data store, API tokens and the audit log in Django's admin, for operators."""

from __future__ import annotations

from django.contrib import admin

from ..identity.models import ApiToken, AuditEntry
from ..models import DataStoreEntry, RunRecord, WorkerRecord
from .data_store import DataStoreEntryAdmin
from .identity import ApiTokenAdmin, AuditEntryAdmin
from .run_list import RunRecordAdmin
from .workers import WorkerRecordAdmin

admin.site.register(RunRecord, RunRecordAdmin)
admin.site.register(WorkerRecord, WorkerRecordAdmin)
admin.site.register(DataStoreEntry, DataStoreEntryAdmin)
admin.site.register(ApiToken, ApiTokenAdmin)
admin.site.register(AuditEntry, AuditEntryAdmin)
