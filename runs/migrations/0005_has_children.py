from django.db import migrations, models
from django.db.models import Exists, OuterRef


def mark_callers(apps, schema_editor):
    runs = apps.get_model("runs", "RunRecord").objects.using(schema_editor.connection.alias)
    runs.filter(Exists(runs.filter(parent=OuterRef("pk")))).update(has_children=True)


class Migration(migrations.Migration):
    dependencies = [("runs", "0004_room_for_updates")]

    operations = [
        migrations.AddField("runrecord", "has_children", models.BooleanField(default=False)),
        migrations.RunPython(mark_callers, migrations.RunPython.noop),
    ]
