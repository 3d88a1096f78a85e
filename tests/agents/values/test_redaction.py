from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.values.jsonable import clean
from agents.values.redaction import REDACTED, add_secret, forget_secrets, redact


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    forget_secrets()
    yield
    forget_secrets()


def redact_value(value: Any) -> Any:
    return clean(value, redacting=True)


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fw"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n"
    "MIIE+/=\n-----END RSA PRIVATE KEY-----"
)
GITHUB = "ghp_" + "a1B2" * 9


ISSUED = [
    *(
        "npm_" + "a1B2" * 9,
        "SG." + "a1B2" * 5 + "." + "c3D4" * 10,
        "pypi-AgEIcHlwaS5vcmc" + "a1B2" * 9,
    ),
    *("gldt-" + "a1B2" * 5, "glrt-" + "a1B2" * 5, "xapp-1-A0-" + "a1B2" * 5, "gsk_" + "a1B2" * 13),
    *(
        "sk-ant-api03-" + "a1B2" * 9,
        "sk-or-v1-" + "0a" * 32,
        "xai-" + "a1B2" * 10,
        "r8_" + "a1B2" * 9,
    ),
    *("GOCSPX-" + "a1B2" * 7, "ya29." + "a1B2" * 9, "hvs." + "a1B2" * 9, "dop_v1_" + "0a" * 32),
    *(
        "shpat_" + "0a" * 16,
        "whsec_" + "a1B2" * 8,
        "rubygems_" + "0a" * 24,
        "dckr_pat_" + "a1B2" * 7,
    ),
    *(
        "lsv2_pt_" + "0a" * 16 + "_0a1b2c3d4e",
        "glsa_" + "a1B2" * 8 + "_0a1b2c3d",
        "ntn_" + "a1B2" * 11,
    ),
    *("sntrys_eyJpYXQiOjE3" + "a1B2" * 9 + "=_" + "a1B2" * 5, "xoxe.xoxp-1-" + "a1B2" * 9),
    *("nvapi-" + "a1B2" * 16, "tvly-dev-" + "a1B2" * 8, "AGE-SECRET-KEY-1" + "A1B2" * 14),
]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("key sk-proj-abc123DEF456 end", "key [redacted] end"),
        ("sk-abcdefghijklmnopqrstuvwxyz", "[redacted]"),
        ("log\\nsk-ant-api03-abc123", "log\\n[redacted]"),
        ("sk_live_4eC39HqLyjWDarjtT1", "[redacted]"),
        (f"clone with {GITHUB}.", "clone with [redacted]."),
        ("github_pat_11ABCDEFG0abcdefghijkl", "[redacted]"),
        ("glpat-abcdefghij1234567890", "[redacted]"),
        ("xoxb-123456789012-abcdef", "[redacted]"),
        ("hf_abcdefghijklmnopqrstuvwx", "[redacted]"),
        ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "[redacted]"),
        ("id AKIAIOSFODNN7EXAMPLE.", "id [redacted]."),
        (f"jwt={JWT} x", "jwt=[redacted] x"),
        (f"before {PEM} after", "before [redacted] after"),
        (PEM[:60], "[redacted]"),
        (json.dumps(PEM), '"[redacted]"'),
        ("postgres://user:p@ss:w0rd@host:5432/db", "postgres://user:[redacted]@host:5432/db"),
        ("redis://:hunter2@host", "redis://:[redacted]@host"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("authorization: Basic dXNlcjpw and more", "authorization: [redacted] and more"),
        ("X-Authorization: Token abc\r\nHost: x", "X-Authorization: [redacted]\r\nHost: x"),
        ('{"Authorization": "Bearer abc", "a": 1}', '{"Authorization": "[redacted]", "a": 1}'),
        ("{b'authorization': b'Basic abc'}", "{b'authorization': b'[redacted]'}"),
        (
            "curl -H 'Authorization: Bearer x' http://h",
            "curl -H 'Authorization: [redacted]' http://h",
        ),
        ("Cookie: sessionid=abc; theme=dark\nHost: h", "Cookie: [redacted]\nHost: h"),
        ("Set-Cookie: a=b; HttpOnly", "Set-Cookie: [redacted]"),
        ("Bearer abcdefgh12345678", "Bearer [redacted]"),
        ("api_key=abc123&page=2", "api_key=[redacted]&page=2"),
        ("?access_token=abc&x=1", "?access_token=[redacted]&x=1"),
        ("password: hunter2", "password: [redacted]"),
        ("PASSWORD = 'correct horse'", "PASSWORD = '[redacted]'"),
        ("OPENAI_API_KEY=abc", "OPENAI_API_KEY=[redacted]"),
        ("AWS_SECRET_ACCESS_KEY=wJalr/x+1", "AWS_SECRET_ACCESS_KEY=[redacted]"),
        ("DB_PWD=foo", "DB_PWD=[redacted]"),
        ("client_secret => foo", "client_secret => [redacted]"),
        ("API key: abc123", "API key: [redacted]"),
        ('os.environ["API_KEY"] = "abc"', 'os.environ["API_KEY"] = "[redacted]"'),
        ('{"token": "a\\"b", "n": 1}', '{"token": "[redacted]", "n": 1}'),
        ('{\\"token\\": \\"abc\\", \\"n\\": 1}', '{\\"token\\": \\"[redacted]\\", \\"n\\": 1}'),
        ('"password": "cut off he', '"password": "[redacted]'),
        ("connect(token=abcdef)", "connect(token=[redacted])"),
        ("İ password=hunter2", "İ password=[redacted]"),
        ("password=12345678", "password=[redacted]"),
        ("token=123456789012", "token=[redacted]"),
        # Made up, in the form that each issuer documents.
        *((f"use {token} here", "use [redacted] here") for token in ISSUED),
        (f"bot 110201543:AA{'Hdq1' * 8}x", "bot 110201543:[redacted]"),
        (
            f"https://api.telegram.org/bot123456:{'ABC-1' * 7}/send",
            "https://api.telegram.org/bot123456:[redacted]/send",
        ),
        (f"MTA1{'x' * 22}.Gabc12.{'aB3_' * 9}", f"MTA1{'x' * 22}.[redacted]"),
        (
            "https://hooks.slack.com/services/T0/B0/abcdefghijkl",
            "https://hooks.slack.com/services/[redacted]",
        ),
        (
            "discord.com/api/webhooks/12345678/abcDEF123 ok",
            "discord.com/api/webhooks/[redacted] ok",
        ),
        (f"s3?X-Amz-Signature={'0a' * 32}&x=1", "s3?X-Amz-Signature=[redacted]&x=1"),
        ("s3?X-Amz-Security-Token=IQoJb3JpZ2&x=1", "s3?X-Amz-Security-Token=[redacted]&x=1"),
        (f"gs?X-Goog-Signature={'0a' * 32}", "gs?X-Goog-Signature=[redacted]"),
        ("cdn?Signature=nit5-abc~1def&Expires=1", "cdn?Signature=[redacted]&Expires=1"),
        ("blob?sv=2022&sig=aB3%2Bcd4%2Fef5%3D&se=x", "blob?sv=2022&sig=[redacted]&se=x"),
        ("fn?code=aB3cd4ef5aB3cd4ef5==", "fn?code=[redacted]"),
        (f"https://{'0a' * 16}@o1.ingest.sentry.io/2", "https://[redacted]@o1.ingest.sentry.io/2"),
        ("https://x-token-auth1234567890@h/r", "https://[redacted]@h/r"),
        ("pw=hunter2, db_pw: abc", "pw=[redacted], db_pw: [redacted]"),
        ('{"pw": "a b", "n": 1}', '{"pw": "[redacted]", "n": 1}'),
        ("auth=abcdef123456 x", "auth=[redacted] x"),
        ('"signature": "0a1b2c3d4e5f6a7b"', '"signature": "[redacted]"'),
        ("AccountKey=aB3/cd4+ef5==;x", "AccountKey=[redacted];x"),
        ("curl: Basic dXNlcjpwYXNzdzByZA==", "curl: Basic [redacted]"),
    ],
)
def test_secrets_go_and_their_names_stay(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The quick brown fox: 5 = five, see http://localhost:8080/a@b.",
        "a risk-averse, mask-wearing sk-learn user",
        "the bearer of bad news, a standard bearer organisation",
        "input_tokens: 12, max_tokens=100, 'total_tokens': 5, token: 7, token=0.5)",
        "tokens: many of them",
        "def login(user: str, password: str, token=None): ...",
        '{"token": null, "secret": false, "password": ""}',
        "PWD=/home/user",
        "the password is not here; a secret to nobody; keys: a, b",
        "primary_key=5, key: value, monkey: banana, cookie: chocolate",
        "eyJ is how it begins, and AKIA too",
        "mailto:someone@example.org",
        "upward: 5, design: signed, author: Ada, the auth is: required, auth: none, auth=True",
        "Signature: John Smith; signature: (a, b) -> c; signature = inspect.signature(f)",
        "npm_config_registry, npm_lifecycle_event_2, secret_santa_2024_list_of_everybody",
        "a basic authentication, basic 2024 requirements, error code=404, code=E1234567890",
        "at 2026-11-29 13:32:05: done; 192168:8080; 1.234.567,89; v1.22.333-rc.1",
        "https://someone@example.org/path and ssh://git@github.com/a/b.git",
        "https://docs.slack.com/services and /api/webhooks/ is where it is posted",
        "sig: a figure, e.g. sig. 3; x.y.z; SG. is Singapore; hvs. and ya29.",
        "PW=/home/user",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_known_secret_goes_wherever_it_stands_and_however_it_is_written() -> None:
    add_secret('s3cret "/value"')
    plain = 's3cret "/value"'
    assert redact(f"a{plain}b") == f"a{REDACTED}b"
    assert redact(json.dumps({"x": plain})) == '{"x": "[redacted]"}'
    assert redact("x=s3cret%20%22%2Fvalue%22") == "x=[redacted]"
    assert redact("x=s3cret+%22%2Fvalue%22") == "x=[redacted]"


def test_a_secret_that_holds_another_goes_whole() -> None:
    add_secret("abcdefgh")
    add_secret("abcdefgh-and-more")
    assert redact("<abcdefgh-and-more> <abcdefgh>") == "<[redacted]> <[redacted]>"


def test_short_values_are_not_taken_for_secrets() -> None:
    for value in ("", None, "short12", "redacted"):
        add_secret(value)
    assert redact("a short12 text, redacted") == "a short12 text, redacted"


def test_secrets_can_be_forgotten() -> None:
    add_secret("a-known-value")
    assert redact("a-known-value") == REDACTED
    forget_secrets()
    assert redact("a-known-value") == "a-known-value"


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "DB_PASSWORD",
        "passwd",
        "secret",
        "client_secret",
        "api_key",
        "apiKey",
        "X-Api-Key",
        "token",
        "accessToken",
        "csrftoken",
        "Authorization",
        "cookie",
        "Set-Cookie",
        "credentials",
        "private_key",
        "SECRET_KEY",
        "session_id",
        "passwords",
        "password2",
        *("pw", "db_pw", "dbPw", "signature", "X-Amz-Signature", "webhookSignature", "auth"),
        *("basic_auth", "proxyAuth", "sig", "jwt", "sentry_dsn", "otp"),
        "x" * 1000 + "_token",
    ],
)
@pytest.mark.parametrize("value", ["x", ["x"], {"a": {"b": 1}}])
def test_what_stands_under_a_telling_key_goes_whole(key: str, value: Any) -> None:
    assert redact_value({"a": [{key: value}]}) == {"a": [{key: REDACTED}]}


@pytest.mark.parametrize(
    "key",
    [
        "input_tokens",
        "max_tokens",
        "total_tokens",
        "tokens",
        "token_type",
        "key",
        "keys",
        "monkey",
        "password_length",
        "secretary",
        "primary_key",
        "cookie_policy",
        *("upw", "author", "signatures", "design", "laptop", "signature_type", "auth_type"),
    ],
)
def test_what_stands_under_another_key_stays(key: str) -> None:
    assert redact_value({key: "x"}) == {key: "x"}


@pytest.mark.parametrize("value", [0, 5, 1.5, True, None])
def test_numbers_stay_even_under_a_telling_key(value: Any) -> None:
    assert redact_value({"token": value}) == {"token": value}


def test_texts_and_keys_inside_values_are_redacted_too() -> None:
    value = {"a": ["password=hunter2", ({"sk-proj-abc123DEF": 1},)]}
    assert redact_value(value) == {"a": ["password=[redacted]", [{REDACTED: 1}]]}
    assert redact_value("Bearer abcdefgh1234") == "Bearer [redacted]"


def test_a_value_is_copied_and_not_changed() -> None:
    value = {"a": [{"password": "x"}], "b": {"c": [1]}}
    before = json.dumps(value)
    result = redact_value(value)
    assert json.dumps(value) == before
    assert result["b"] is not value["b"]
    assert result["b"]["c"] is not value["b"]["c"]


def test_a_value_may_be_nested_deeper_than_the_stack() -> None:
    value: Any = "password=hunter2"
    for _ in range(100_000):
        value = [value]
    assert "hunter2" not in json.dumps(redact_value(value))


def test_objects_that_json_does_not_have_are_redacted_too() -> None:
    assert redact_value({"url": ValueError("redis://:hunter2@host")}) == {
        "url": "ValueError('redis://:[redacted]@host')"
    }


PIECES = st.sampled_from(
    [
        "password",
        "token",
        "api_key",
        "Authorization",
        "cookie",
        "Bearer ",
        "://",
        "sk-",
        "eyJ",
        "a1",
        ":",
        "=",
        " ",
        '"',
        "'",
        "\\",
        "@",
        ".",
        ")",
        "]",
        "[",
        "\n",
        ",",
        "&",
        "b'",
        "null",
        "12",
        REDACTED,
        "abcdefgh1",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "s",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.from_regex(r"[A-Za-z0-9!#$%*+./:?@^_~-]{6,40}", fullmatch=True), st.sampled_from("\"'"))
def test_a_quoted_password_never_survives(password: str, mark: str) -> None:
    text = f"{{{mark}db_password{mark}: {mark}{password}{mark}, {mark}n{mark}: 1}}"
    assert redact(text) == text.replace(password, REDACTED)


HOSTILE = [
    *("sk-", "sk-sk_", "sk-a", "xox", "xoxb-", "ghp_", "AKIA", "AKIAAAAAAAAAAAAAAA", "hf_", "AIza"),
    *(
        "eyJ",
        "eyJ-",
        "eyJaaaaaa.",
        "eyJaaaaa.eyJ",
        "\\neyJ",
        "://",
        "://a:",
        "://a:b@",
        "://" + "a" * 300,
    ),
    *("bearer ", "bearer" + " " * 10, "bearer a", "authorization: a ", "authorization:"),
    *("authorization: a" + " " * 50, "cookie: a", "cookie: a=", "cookie:", "cookie: " + "a" * 90),
    *("password", "password=", 'password="', "password='\"", 'password=\\"', 'password="\\'),
    *("password=)", "password= ", "password  ", "token:", "token[", "pass_", "key", "api_key=:"),
    *("api_key=[redacted]", "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "-----BEGIN A", "-"),
    *(
        "SG.",
        "SG.a",
        "hvs.a1",
        "npm_",
        "npm_a1",
        "gsk_a",
        "xai-a",
        "1234567:",
        "1234567:a",
        "a.b",
        "a.",
    ),
    *("x" * 24 + ".abc123.", "hooks.slack.com/services/", "/api/webhooks/1", "signature=", "sig=a"),
    *("signature=a1", "?code=", "?code=a", "://a1", "basic a", "basic " + "a" * 50, "pw=", "auth="),
    *("a", "A", " ", "\\", '"', "'", "=", ":", "_", "é", "İ", "İpassword="),
]


@pytest.mark.parametrize("piece", HOSTILE, ids=repr)
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.thread_time()
        redact(text)
        return time.thread_time() - start

    small = min(seconds(50_000) for _ in range(3))
    # 16 times the text. A quadratic pattern takes 256 times as long, each time.
    assert any(seconds(800_000) < 64 * small + 0.01 for _ in range(3))


def test_ordinary_text_costs_little_more_than_reading_it() -> None:
    text = "The quick brown fox jumps over the lazy dog, rests a while and goes on. " * 2_000

    def seconds(work: Any) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.thread_time()
            work(text)
            best = min(best, time.thread_time() - start)
        return best

    # Without the search for anchors it is some 100 times; measured: 12 times.
    assert seconds(redact) < 60 * seconds(str.lower)
