import django.db.models.deletion
import django.utils.timezone
from runs.models import uuid7
from django.conf import settings
from django.db import migrations, models


# Entries are added and never changed, whatever code or person tries, except for the count of failed
# sign-ins. Only the retention deletes: it says so in its transaction. A role that owns the table can
# drop the trigger; SQLite has none.
PROTECT = """
CREATE FUNCTION identity_auditentry_protect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('halting.audit_retention', true) = 'on' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.act = 'sign_in_failed' AND NEW.count > OLD.count
        AND to_jsonb(NEW) - 'count' = to_jsonb(OLD) - 'count' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the audit log can only be added to';
END $$;
CREATE TRIGGER identity_auditentry_protect BEFORE UPDATE OR DELETE ON identity_auditentry
    FOR EACH ROW EXECUTE FUNCTION identity_auditentry_protect();
"""
LEAVE = """
DROP TRIGGER identity_auditentry_protect ON identity_auditentry;
DROP FUNCTION identity_auditentry_protect();
"""


def protect(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(PROTECT)


def leave(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(LEAVE)


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ApiToken',
            fields=[
                ('id', models.UUIDField(default=uuid7, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(blank=True, default='', max_length=100, verbose_name='name')),
                ('digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('hint', models.CharField(max_length=8, verbose_name='begins with')),
                ('password_mark', models.CharField(editable=False, max_length=64)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='created')),
                ('expires_at', models.DateTimeField(null=True, verbose_name='expires')),
                ('last_used_at', models.DateTimeField(null=True, verbose_name='last used')),
                ('last_address', models.CharField(default='', max_length=45, verbose_name='last address')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='api_tokens', to=settings.AUTH_USER_MODEL, verbose_name='user')),
            ],
            options={
                'verbose_name': 'API token',
                'verbose_name_plural': 'API tokens',
                'ordering': ['-created_at', '-id'],
            },
        ),
        migrations.CreateModel(
            name='AuditEntry',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='at')),
                ('act', models.CharField(choices=[('stop', 'stop of a run'), ('sign_in', 'sign-in'), ('sign_in_failed', 'failed sign-in'), ('sign_out', 'sign-out'), ('password', 'change of a password'), ('token_created', 'token created'), ('token_revoked', 'token revoked'), ('rights', 'change of rights'), ('account', 'account created or deleted')], max_length=20, verbose_name='act')),
                ('actor_id', models.BigIntegerField(null=True, verbose_name='user id')),
                ('actor', models.CharField(default='', max_length=150, verbose_name='by')),
                ('address', models.CharField(default='', max_length=45, verbose_name='address')),
                ('subject', models.CharField(default='', max_length=200, verbose_name='of')),
                ('detail', models.TextField(default='', verbose_name='detail')),
                ('count', models.PositiveIntegerField(default=1, verbose_name='count')),
            ],
            options={
                'verbose_name': 'audit entry',
                'verbose_name_plural': 'audit entries',
                'ordering': ['-at', '-id'],
                'indexes': [models.Index(fields=['-at', '-id'], name='audit_newest')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('act', 'sign_in_failed')), fields=('actor', 'address', 'at'), name='audit_failures_of_a_minute')],
            },
        ),
        migrations.RunPython(protect, leave),
    ]
