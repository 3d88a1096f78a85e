from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import migrations, models
from django.db.models import OuterRef, Subquery


def write_names(apps, schema_editor):
    """Keep the names of those who are still users."""
    alias = schema_editor.connection.alias
    users = apps.get_model(settings.AUTH_USER_MODEL)._base_manager.using(alias)
    runs = apps.get_model("runs", "RunRecord").objects.using(alias)
    # The model of this moment may lack the field: a site may have added it since.
    names = get_user_model().USERNAME_FIELD
    for field in ("stop_requested_by", "stop_escalated_by"):
        named = runs.filter(**{f"{field}__isnull": False})
        if named.exists():
            name = Subquery(users.filter(pk=OuterRef(field)).values(names))
            named.update(**{f"{field}_name": name})


class Migration(migrations.Migration):
    dependencies = [
        ("runs", "0006_quotas"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        # With a default in the database: a process of the release before inserts without them.
        migrations.AddField(
            "runrecord",
            "stop_requested_by_name",
            models.CharField(db_default="", default="", max_length=150),
        ),
        migrations.AddField(
            "runrecord",
            "stop_escalated_by_name",
            models.CharField(db_default="", default="", max_length=150),
        ),
        migrations.AlterField(
            "runrecord",
            "stop_via",
            models.CharField(
                choices=[
                    ("api", "API"),
                    ("admin", "admin"),
                    ("page", "page"),
                    ("cli", "command line"),
                    ("parent", "parent run"),
                    ("budget", "budget"),
                    ("account", "deactivated account"),
                ],
                default="",
                max_length=10,
            ),
        ),
        migrations.RunPython(write_names, migrations.RunPython.noop),
    ]
