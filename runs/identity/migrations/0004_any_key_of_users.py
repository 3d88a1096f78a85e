from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('identity', '0003_limits_in_the_audit_log'),
    ]

    operations = [
        # On PostgreSQL this rewrites the table. A process of the release before may insert
        # numbers meanwhile and later: the server makes texts of them.
        migrations.AlterField(
            model_name='auditentry',
            name='actor_id',
            field=models.CharField(max_length=255, null=True, verbose_name='user id'),
        ),
    ]
