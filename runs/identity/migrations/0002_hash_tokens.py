import hashlib

from django.db import migrations


def hash_tokens(apps, schema_editor):
    """Make rows of ours of the tokens of rest_framework.authtoken: their keys stay good.

    They get no end: their users have not chosen one.
    """
    plain = apps.get_model("authtoken", "Token").objects
    hashed = apps.get_model("identity", "ApiToken").objects
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
    dependencies = [("identity", "0001_initial"), ("authtoken", "0003_tokenproxy")]

    operations = [migrations.RunPython(hash_tokens, migrations.RunPython.noop)]
