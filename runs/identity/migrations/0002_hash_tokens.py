import hashlib

from django.db import migrations

from runs.conf import conf


def hash_tokens(apps, schema_editor):
    """Make rows of ours of the tokens of rest_framework.authtoken: their keys stay good.

    They get no end: their users have not chosen one.
    """
    if not conf().drf_tokens:  # they are the site's own
        return
    connection = schema_editor.connection
    try:
        tokens = apps.get_model("authtoken", "Token")
    except LookupError:
        return
    if tokens._meta.db_table not in connection.introspection.table_names():
        return
    plain = tokens._base_manager.using(connection.alias)
    hashed = apps.get_model("identity", "ApiToken")._base_manager.using(connection.alias)
    for token in plain.select_related("user").iterator():
        mark = f"runs.identity.tokens:{token.user.password}"
        hashed.create(
            user=token.user,
            name="from before tokens had names",
            digest=hashlib.sha256(token.key.encode()).hexdigest(),
            hint=token.key[:8],
            password_mark=hashlib.sha256(mark.encode()).hexdigest(),
            created_at=token.created,
        )
    plain.all().delete()


class Migration(migrations.Migration):
    # Not on authtoken: it need not be installed, and a site may install it later. Where there are
    # tokens to hash it has been migrated long ago.
    dependencies = [("identity", "0001_initial")]

    operations = [migrations.RunPython(hash_tokens, migrations.RunPython.noop)]
