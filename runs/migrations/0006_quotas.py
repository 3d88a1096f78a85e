import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def measure_entries(apps, schema_editor):
    """Give the entries of data stores their sizes.

    Runs get theirs as they are written from now on. To read all results and logs of a large table
    would take an hour, and retention removes them in time.
    """
    is_postgres = schema_editor.connection.vendor == "postgresql"
    measure = "octet_length({}::text)" if is_postgres else "LENGTH(CAST({} AS BLOB))"
    parts = [f"COALESCE({measure.format(name)}, 0)" for name in ("namespace", "key", "value", "metadata")]
    schema_editor.execute(f"UPDATE runs_datastoreentry SET size_bytes = 200 + {' + '.join(parts)}")


def bytes_field():
    return models.PositiveBigIntegerField(default=0, db_default=0)


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("runs", "0005_has_children"),
    ]

    operations = [
        migrations.AddField("runrecord", "value_bytes", bytes_field()),
        migrations.AddField("runrecord", "log_bytes", bytes_field()),
        migrations.AddField("datastoreentry", "size_bytes", bytes_field()),
        migrations.RunPython(measure_entries, migrations.RunPython.noop),
        migrations.CreateModel(
            name="OwnerUsage",
            fields=[
                (
                    "owner",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="usage",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("stored_bytes", models.BigIntegerField(default=0, db_default=0)),
                ("keys_count", models.BigIntegerField(default=0, db_default=0)),
                ("measured_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "usage of an owner",
                "verbose_name_plural": "usage of owners",
            },
        ),
    ]
