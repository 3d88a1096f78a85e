"""Runs, workers, the data store, quotas, API tokens and the audit log in the admin."""

from __future__ import annotations

from django.contrib import admin

from ..identity.models import ApiToken, AuditEntry
from ..models import DataStoreEntry, OwnerUsage, RunRecord, WorkerRecord
from . import users
from .data_store import DataStoreEntryAdmin
from .identity import ApiTokenAdmin, AuditEntryAdmin
from .run_list import RunRecordAdmin
from .usage import OwnerUsageAdmin
from .workers import WorkerRecordAdmin

admin.site.register(RunRecord, RunRecordAdmin)
admin.site.register(WorkerRecord, WorkerRecordAdmin)
admin.site.register(DataStoreEntry, DataStoreEntryAdmin)
admin.site.register(OwnerUsage, OwnerUsageAdmin)
users.register()
admin.site.register(ApiToken, ApiTokenAdmin)
admin.site.register(AuditEntry, AuditEntryAdmin)
