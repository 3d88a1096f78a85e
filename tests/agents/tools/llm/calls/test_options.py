"""Every key, address, name and proxy that is accepted works; others are refused with a reason."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest

from agents.tools.http.pools import Transports
from agents.tools.http.proxies import proxy_problem
from agents.tools.llm.client import Model
from agents.tools.llm.options import address_problem, key_problem, name_problem
from agents.values import redaction
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import ask
from tests.support.llm_server import TEXT, LLMServer

PRINTABLE = "".join(sorted(set(string.printable) - set(string.whitespace)))

BAD_TEXTS = [
    ("s3cret\nword", "control character"),
    ("s3cret\rword", "control character"),
    ("s3cret\0word", "control character"),
    ("s3cret\x7fword", "control character"),
    ("s3cret\x85word", "control character"),
    ("s3cret\tword", "control character"),
    (" s3cretword", "blanks around"),
    ("s3cretword\n", "blanks around"),
    ("s3cretword\u00a0", "blanks around"),
    ('"s3cretword"', "quotes around"),
    ("'s3cretword'", "quotes around"),
    ("\u201cs3cretword\u201d", "quotes around"),
    ("s3cret\udcffword", "not UTF-8"),
]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        *BAD_TEXTS,
        ("s3crét-word", "not ASCII"),
        ("s3cret\u200bword", "not ASCII"),
        ("\ufeffs3cretword", "not ASCII"),
        ("s3cret word", "blank inside"),
        ("Bearer s3cretword", "blank inside"),
    ],
)
def test_a_key_that_can_not_be_sent_is_refused(key: str, problem: str) -> None:
    found = key_problem(key)
    assert found is not None
    assert problem in found
    assert "s3cr" not in found
    if key == key.strip():  # the model takes blanks away by itself
        with pytest.raises(ValueError, match=problem):
            Model("http://x.invalid/v1", key)


@pytest.mark.parametrize("key", ["k", "sk-proj-1_2.3~4", PRINTABLE, "'", '"quoted'])
async def test_a_key_that_is_accepted_arrives(server: LLMServer, run: AgentRun, key: str) -> None:
    assert key_problem(key) is None
    model = Model(server.base_url, f" {key}\n", "m")
    assert (await within(5, ask(run, model))).text == TEXT
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"
    await model.aclose()
    redaction.forget_secrets()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://s3cret\n.example/v1", "control character"),
        ('"https://s3cret.example/v1"', "quotes around"),
        ("https://s3cret.example/v1 ", "blanks around"),
        ("https://s3cret.example/a b", "blank inside"),
        ("s3cret.example/v1", "begins with http"),
        ("ftp://s3cret.example/v1", "begins with http"),
        ("https://", "begins with http"),
        ("https:///v1", "begins with http"),
        ("https://s3cret.example:99999/v1", "begins with http"),
        ("https://s3cret.example:0/v1", "begins with http"),
        ("https://s3cret.example:port/v1", "begins with http"),
        ("https://[s3cret/v1", "begins with http"),
        ("https://s3cret..example/v1", "begins with http"),
        ("https://s3cret.example/v1?key=s3cret", "? or #"),
        ("https://s3cret.example/v1#x", "? or #"),
        ("https://s3cret.example/v1/chat/completions", "/chat/completions"),
        ("https://s3cret.example/v1/chat/completions/", "/chat/completions"),
    ],
)
def test_an_address_that_can_not_work_is_refused(url: str, problem: str) -> None:
    found = address_problem(url)
    assert found is not None
    assert problem in found
    assert "s3cr" not in found
    with pytest.raises(ValueError, match="address"):
        Model(f"{url}x" if problem == "blanks around" else url, "k")


def test_a_user_in_the_address_and_a_key_are_refused_together() -> None:
    with pytest.raises(ValueError, match="one of them"):
        Model("http://user:s3cret-word@x.invalid/v1", "k")


@pytest.mark.parametrize("form", ["{url}/v1", "{url}/v1/", "{url}", "HTTP://{host}/v1",
                                  "http://user:s3cret-w%20rd@{host}/v1"])  # fmt: skip
async def test_an_address_that_is_accepted_is_reached(
    server: LLMServer, run: AgentRun, form: str
) -> None:
    url = form.format(url=server.url, host=f"{server.host}:{server.port}")
    assert address_problem(url) is None
    model = Model(url, "", "m")
    assert (await within(5, ask(run, model))).text == TEXT
    assert redaction.redact("it is s3cret-w rd").endswith("[redacted]" if "user" in url else "rd")
    await model.aclose()
    redaction.forget_secrets()


@pytest.mark.parametrize(("name", "problem"), BAD_TEXTS)
def test_a_name_that_no_model_has_is_refused(name: str, problem: str) -> None:
    found = name_problem(name)
    assert found is not None
    assert problem in found


@pytest.mark.parametrize("name", ["llama3", "org/model:free", "Qwen 2.5 (8 bit)", "模型"])
async def test_a_name_that_is_accepted_arrives(server: LLMServer, run: AgentRun, name: str) -> None:
    assert name_problem(name) is None
    model = Model(server.base_url, "", name)
    await within(5, ask(run, model))
    assert server.requests[0].body["model"] == name
    await model.aclose()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://user:s3cret@proxy:80\n80", "control character"),
        ("http://user:s3cret word@proxy:8080", "blank"),
        ("socks5://user:s3cret@proxy:1080", "SOCKS"),
        ("socks5h://user:s3cret@proxy:1080", "SOCKS"),
        ("SOCKS4://user:s3cret@proxy:1080", "SOCKS"),
        ("user:s3cret@proxy:8080", "of the form"),
        ("proxy:8080", "of the form"),
        ("ftp://proxy", "of the form"),
        ("http://", "of the form"),
        ("http://user:s3cret@:8080", "of the form"),
        ("http://user:s3cret@proxy:99999", "of the form"),
        ("http://user:s3cret@pro..xy:8080", "of the form"),
        ("http://user:s3c/ret@proxy:8080", "of the form"),
        ("http://user:s3c#ret@proxy:8080", "of the form"),
        ('"http://user:s3cret@proxy:8080"', "of the form"),
        ("http://proxy:8080/path", "has a path"),
        ("http://proxy:8080?x", "has a path"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda url: Transports(model_proxy_url=url),
        lambda url: Model("http://m/v1", "", proxy_url=url),
    ],
)
def test_a_proxy_that_can_not_work_is_refused(
    url: str, problem: str, use: Callable[[str], object]
) -> None:
    found = proxy_problem(url)
    assert found is not None
    assert problem in found
    with pytest.raises(ValueError, match="proxy") as caught:
        use(url)
    assert "s3c" not in f"{found} {caught.value}"


@pytest.mark.parametrize(
    "url", ["http://proxy", "http://proxy:8080/", "HTTPS://u:p%40ss@[::1]:3128", ""]
)
def test_a_proxy_that_can_work_is_accepted(url: str) -> None:
    assert proxy_problem(url) is None
    Transports(model_proxy_url=url)
