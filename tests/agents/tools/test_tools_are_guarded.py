"""Every door to the outside is guarded: a new one can't be added without saying so here."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import httpx
import pytest

from agents import AgentHandle, AgentStopped, SyncAgentHandle, SyncTools, Tools, cleanup
from agents.environment import ChildEnd, Environment
from agents.exceptions import RunIsOver
from agents.testing import ScriptedModel
from agents.tools.agents.client import AgentClient
from agents.tools.data_store import DataStore
from agents.tools.http.client import Transports
from agents.tools.process import calls
from agents.tools.sync_toolbox import SyncAgentClient, SyncDataStore
from tests.support.agent_run import AgentRun, within

SECONDS = 10.0
URL = "http://example.org/"
MESSAGES = [{"role": "user", "content": "Hello"}]

# --- what there is: a new name has to be added to one of these -----------------------------------

#: Leads to more tools.
PARTS = {"data_store", "agents", "http"}

#: Not guarded, as DESIGN 10 has it: a ``finally`` may use them. They touch nothing outside.
UNGUARDED: dict[str, Callable[[Any], Any]] = {
    "log": lambda tools: tools.log("hello"),
    "progress": lambda tools: tools.progress(1, 2),
    "remaining": lambda tools: tools.remaining(),
    "default_model": lambda tools: tools.default_model,
    "data_store.use_namespace": lambda tools: tools.data_store.use_namespace("mine"),
}

#: Guarded, with a way to call each.
GUARDED: dict[str, Callable[[Any], Any]] = {
    "call_llm": lambda tools: tools.call_llm(MESSAGES),
    "process": lambda tools: tools.process(["true"]),
    "agents.call": lambda tools: tools.agents.call("other", {"n": 1}),
    "agents.start": lambda tools: tools.agents.start("other", {"n": 1}),
    "data_store.get": lambda tools: tools.data_store.get("a"),
    "data_store.set": lambda tools: tools.data_store.set("a", 1, {"about": "it"}),
    "data_store.delete": lambda tools: tools.data_store.delete("a"),
    "data_store.get_many": lambda tools: tools.data_store.get_many(["a", "b"]),
    "data_store.set_many": lambda tools: tools.data_store.set_many({"a": 1}),
    "data_store.delete_many": lambda tools: tools.data_store.delete_many(["a"]),
    "data_store.list_keys": lambda tools: tools.data_store.list_keys("a"),
    "data_store.get_all": lambda tools: tools.data_store.get_all(),
    "data_store.clear": lambda tools: tools.data_store.clear(),
    "data_store.list_namespaces": lambda tools: tools.data_store.list_namespaces(),
    "http.get": lambda tools: tools.http.get(URL),
    "http.options": lambda tools: tools.http.options(URL),
    "http.head": lambda tools: tools.http.head(URL),
    "http.post": lambda tools: tools.http.post(URL, content=b"x"),
    "http.put": lambda tools: tools.http.put(URL, content=b"x"),
    "http.patch": lambda tools: tools.http.patch(URL, content=b"x"),
    "http.delete": lambda tools: tools.http.delete(URL),
    "http.request": lambda tools: tools.http.request("QUERY", URL),
    "http.send": lambda tools: tools.http.send(httpx.Request("GET", URL)),
    "http.stream": lambda tools: tools.http.stream("GET", URL),
}

#: What else an httpx client has: settings, and what makes no request.
HTTP_WITHOUT_REQUEST = {
    "aclose",
    "auth",
    "base_url",
    "build_request",
    "close",
    "cookies",
    "event_hooks",
    "follow_redirects",
    "headers",
    "is_closed",
    "max_redirects",
    "params",
    "timeout",
    "trust_env",
}


# --- an outside that notes every touch -----------------------------------------------------------


class Outside:
    """All that is behind the tools; ``touched`` is what was reached of it."""

    newest: ClassVar[Outside]

    def __init__(self) -> None:
        self.touched: list[str] = []
        Outside.newest = self

    def environment(self, run: AgentRun) -> Environment:
        return Environment(run.guard, _Model(self), _Store(self), _Caller(self), _Transports(self))


@pytest.fixture(autouse=True)
def noted_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each program that is started be a touch, too."""
    run = calls._Process._run

    def noted(process: Any, *args: Any) -> Any:
        Outside.newest.touched.append("process")
        return run(process, *args)

    monkeypatch.setattr(calls._Process, "_run", noted)


class _Model(ScriptedModel):
    def __init__(self, outside: Outside) -> None:
        super().__init__()
        self._outside = outside

    async def converse(self, *args: Any, **options: Any) -> None:
        self._outside.touched.append("model")
        await super().converse(*args, **options)


class _Store:
    """Answers to every method, such as one that a backend may get later."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def method(*args: Any) -> Any:
            self._outside.touched.append(f"store.{name}")
            return {} if name.startswith("get") else [] if name.startswith("list") else 1

        return method


class _Child:
    id = "child"

    async def wait(self) -> ChildEnd:
        return ChildEnd("success", "done")

    def give_up(self) -> None:
        raise AssertionError("no caller gives up here")

    async def ask_to_stop(self, reason: str, mode: object = None) -> None:
        raise AssertionError("no caller gives up here")


class _Caller:
    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    async def start(self, name: str, input: object) -> _Child:
        self._outside.touched.append("agents")
        return _Child()

    async def queue(self, name: str, input: object) -> _Child:
        return await self.start(name, input)


class _Transports(Transports):
    def __init__(self, outside: Outside) -> None:
        super().__init__()

        def answer(request: httpx.Request) -> httpx.Response:
            outside.touched.append("http")
            return httpx.Response(200, text="hello")

        self._mock = httpx.MockTransport(answer)

    def http_async(self) -> httpx.AsyncBaseTransport:
        return self._mock


# --- agents of both kinds use them ---------------------------------------------------------------


async def as_coroutine(
    run: AgentRun, environment: Environment, use: Callable[[Any], Any], clean: bool = False
) -> Any:
    """Use a tool as an ``async def`` agent does."""

    async def agent() -> Any:
        tools = Tools(environment)
        if not clean:
            return await result(use(tools))
        async with cleanup():
            return await result(use(tools))

    async def result(made: Any) -> Any:
        if hasattr(made, "__aenter__") and not isinstance(made, httpx.Response):
            async with made as response:
                return await response.aread()
        return await made if inspect.isawaitable(made) else made

    return await within(SECONDS, run.task(agent()))


async def as_function(
    run: AgentRun, environment: Environment, use: Callable[[Any], Any], clean: bool = False
) -> Any:
    """Use a tool as a ``def`` agent does."""
    loop = asyncio.get_running_loop()

    def agent() -> Any:
        tools = SyncTools(environment, loop)
        if not clean:
            return result(use(tools))
        with cleanup():
            return result(use(tools))

    def result(made: Any) -> Any:
        if hasattr(made, "__enter__"):
            with made as response:
                return response.read()
        return made

    return await within(SECONDS, asyncio.to_thread(run.call, agent))


Agent = Callable[..., Awaitable[Any]]
both_kinds = pytest.mark.parametrize("agent", [as_coroutine, as_function])
each_guarded = pytest.mark.parametrize("name", GUARDED)


# --- the enumeration -----------------------------------------------------------------------------


def _public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


async def _all_names(kind: type) -> set[str]:
    """Return every public name that an agent can reach through its tools."""
    environment = Outside().environment(AgentRun())
    if kind is Tools:
        tools: Any = Tools(environment)
    else:
        tools = SyncTools(environment, asyncio.get_running_loop())
    names = _public(tools) - PARTS
    for part in PARTS:
        names |= {f"{part}.{name}" for name in _public(getattr(tools, part))}
    return names


@pytest.mark.parametrize("kind", [Tools, SyncTools])
async def test_every_public_name_is_known_as_guarded_or_listed_as_not(kind: type) -> None:
    listed = {*GUARDED, *UNGUARDED, *(f"http.{name}" for name in HTTP_WITHOUT_REQUEST)}
    names = await _all_names(kind)
    assert names - listed == set(), "guard it, or list it, and say in DESIGN 10 that it isn't"
    optional = {"http.aclose", "http.close"}  # one of each kind
    assert listed - names - optional == set(), "it is gone"


@pytest.mark.parametrize("part", sorted(PARTS))
@pytest.mark.parametrize("kind", [Tools, SyncTools])
async def test_a_method_that_is_added_would_be_noticed(
    kind: type, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Tools(Outside().environment(AgentRun()))
    before = await _all_names(kind)
    classes = {"data_store": SyncDataStore, "agents": SyncAgentClient, "http": httpx.Client}
    owner = type(getattr(tools, part)) if kind is Tools else classes[part]
    monkeypatch.setattr(owner, "export", lambda self: None, raising=False)
    monkeypatch.setattr(kind, "export", lambda self: None, raising=False)
    assert await _all_names(kind) - before == {f"{part}.export", "export"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (Tools, SyncTools),
        (DataStore, SyncDataStore),
        (AgentClient, SyncAgentClient),
        (AgentHandle, SyncAgentHandle),
    ],
)
def test_both_kinds_of_agents_get_the_same_methods(theirs: type, ours: type) -> None:
    assert _public(theirs) == _public(ours)
    for name in _public(theirs) - PARTS:
        if isinstance(getattr(theirs, name), property):
            assert isinstance(getattr(ours, name), property), name
            continue
        parameters = [
            list(inspect.signature(getattr(kind, name)).parameters.values())
            for kind in (theirs, ours)
        ]
        assert parameters[0] == parameters[1], name


# --- each of them, driven ------------------------------------------------------------------------


@each_guarded
@both_kinds
async def test_before_a_stop_it_reaches_the_outside_in_one_guarded_call(
    name: str, agent: Agent
) -> None:
    run, outside = AgentRun(), Outside()
    await agent(run, outside.environment(run), GUARDED[name])
    assert len(outside.touched) == 1
    [data] = [event.data for event in run.sink.events]
    assert data["tool"] == name.partition(".")[0] if name.startswith("http") else name
    assert data["outcome"] == "ok"
    assert run.trace.in_flight() == []


@each_guarded
@both_kinds
@pytest.mark.parametrize("mode", ["graceful", "abort", "abandon"])
async def test_after_a_stop_it_raises_and_touches_nothing(
    name: str, agent: Agent, mode: str
) -> None:
    run, outside = AgentRun(), Outside()
    environment = outside.environment(run)
    run.stop(mode)
    is_over = mode == "abandon"
    refused = pytest.raises(RunIsOver) if is_over else pytest.raises(AgentStopped, match="enough")
    for _ in range(2):
        with refused:
            await agent(run, environment, GUARDED[name])
    assert outside.touched == []
    assert [event.type for event in run.sink.events] == [] if is_over else ["stop_observed"]
    assert run.guard.calls_started_after_acknowledgement == 0


@each_guarded
@both_kinds
async def test_after_a_stop_of_the_caller_it_raises_and_touches_nothing(
    name: str, agent: Agent
) -> None:
    root = AgentRun()
    run, outside = AgentRun(parent=root), Outside()
    root.stop()
    with pytest.raises(AgentStopped):
        await agent(run, outside.environment(run), GUARDED[name])
    assert outside.touched == []


@each_guarded
@both_kinds
async def test_in_a_thread_or_task_that_lost_its_context_it_is_guarded_all_the_same(
    name: str, agent: Agent
) -> None:
    run, outside = AgentRun(), Outside()
    environment = outside.environment(run)
    run.stop()
    run.context = contextvars.Context()
    with pytest.raises(AgentStopped):
        await agent(run, environment, GUARDED[name])
    assert outside.touched == []


@each_guarded
@both_kinds
async def test_within_cleanup_it_is_let_through_unless_it_begins_something_new(
    name: str, agent: Agent
) -> None:
    run, outside = AgentRun(), Outside()
    run.stop()
    if name in {"agents.call", "agents.start"}:
        with pytest.raises(AgentStopped):
            await agent(run, outside.environment(run), GUARDED[name], clean=True)
        assert outside.touched == []
    else:
        await agent(run, outside.environment(run), GUARDED[name], clean=True)
        assert len(outside.touched) == 1
        assert run.sink.events[-1].data["cleanup"] is True
    assert run.guard.calls_started_after_acknowledgement == 0


@each_guarded
@both_kinds
async def test_after_the_end_of_the_run_it_refuses(name: str, agent: Agent) -> None:
    run, outside = AgentRun(), Outside()
    environment = outside.environment(run)
    run.guard.close()
    with pytest.raises(RunIsOver):
        await agent(run, environment, GUARDED[name])
    assert outside.touched == []


@pytest.mark.parametrize("name", UNGUARDED)
@both_kinds
async def test_what_is_not_guarded_works_after_a_stop_and_touches_nothing(
    name: str, agent: Agent
) -> None:
    run, outside = AgentRun(), Outside()
    run.stop()
    await agent(run, outside.environment(run), UNGUARDED[name])
    assert outside.touched == []
    assert run.token.observed_at is None
    types = [event.type for event in run.sink.events]
    assert types == ([name] if name in {"log", "progress"} else [])


# --- log and progress ----------------------------------------------------------------------------


@both_kinds
async def test_notes_are_the_agents_own_words(agent: Agent) -> None:
    run, outside = AgentRun(), Outside()
    environment = outside.environment(run)

    def notes(tools: Any) -> None:
        tools.log("careful", level="WARNING")
        tools.log({"not": object})
        tools.progress(3, None, "reading")
        tools.progress(1.5, 2)

    await agent(run, environment, notes)
    assert {event.source for event in run.sink.events} == {"agent"}
    assert run.events("log")[0] == {"level": "warning", "message": "careful"}
    assert "object" in run.events("log")[1]["message"]["not"]
    assert run.events("progress") == [
        {"done": 3, "total": None, "message": "reading"},
        {"done": 1.5, "total": 2, "message": ""},
    ]
    with pytest.raises(ValueError, match="loud"):
        await agent(run, environment, lambda tools: tools.log("x", level="loud"))
