"""The agents, by name, and what each takes and gives.

``@agent`` only notes the function down. The first request for an agent works out its JSON Schemas,
since annotations may name what is defined further down. It keeps a ``Problem`` for the system
checks: an import never fails because of an agent's name or signature. Nothing here knows runs, nor
where agents are called.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from . import signatures
from .exceptions import AgentNotFound, InvalidInput, InvalidOutput
from .options import Limits, OnWorkerLoss, Options
from .values.jsonable import clean_text, error_text, let_signals_pass

__all__ = [
    "AgentDefinition",
    "Problem",
    "Registry",
    "agent",
    "all",
    "get",
    "isolated",
    "problems",
]

F = TypeVar("F", bound=Callable[..., Any])

NAME_RULE: Final = (
    "a lower-case letter, then lower-case letters, digits, - and _, at most 100 characters in all"
)
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an agent can't be used as its author meant it.

    Attributes:
        id: ``agents.E001`` a name that is taken, ``agents.E002`` a signature that can't be
            described, ``agents.E003`` a name or an option that is not allowed.
        agent: the agent's name, as it was written.
        message: what is wrong.
        hint: what to do about it.
        where: file:line of the function.
    """

    id: str
    agent: str
    message: str
    hint: str
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class AgentDefinition:
    """One agent that can be run. The schemas are shared: don't change them.

    Attributes:
        options: how its runs are to be treated.
        input_schema: JSON Schema of an object with the parameters after ``tools``.
        output_schema: JSON Schema of the return annotation; ``{}``, anything, without one.
    """

    name: str
    title: str
    description: str
    function: Callable[..., Any]
    is_async: bool
    options: Options
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    _signature: signatures.Signature = field(repr=False)

    def validate_input(self, value: object) -> dict[str, Any]:
        """Return the keyword arguments that a parsed JSON object stands for.

        As strict as JSON Schema: ``"12"`` and ``true`` are no integers. What JSON can't say is
        read from text: dates, UUIDs, enums, Decimals. Defaults are left for the function to fill.
        Takes up to a few seconds of CPU for a hostile input of 8 MiB, so not on a busy loop.

        Raises:
            InvalidInput: the input doesn't fit, or can't be stored; ``fields`` says where.
        """
        fields, arguments = self._signature.read_input(value)
        if fields:
            path, messages = next(iter(fields.items()))
            more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
            raise InvalidInput(
                f"The input does not fit the agent {self.name}. {path}: {messages[0]}{more}", fields
            )
        return arguments

    def dump_output(self, value: object) -> Any:
        """Return the JSON value of what the function returned.

        It must be of the annotated type, or its JSON must be: a dict is fine for a model. NUL and
        lone surrogates in texts become U+FFFD.

        Raises:
            InvalidOutput: it is of another type, or JSON can't hold it: NaN, a cycle, an object of
                an unknown kind, an iterator, too deep nesting.
        """
        try:
            return self._signature.write_output(value)
        except BaseException as error:  # a serializer of the author's may raise anything
            let_signals_pass(error)
            raise InvalidOutput(
                f"What the agent {self.name} returned can't be its output. {error_text(error)}"
            ) from error


@dataclass(slots=True)
class _Entry:
    """What ``@agent`` was told, and with the first request the definition or the problems."""

    name: str
    title: str
    description: str
    function: Callable[..., Any]
    options: Options
    names: dict[str, Any]  # what annotations of a function inside a function may refer to
    # Of its module when it was registered: a reload keeps the module's dict and changes what is in.
    spec: object
    definition: AgentDefinition | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def where(self) -> str:
        return signatures.where(self.function)

    def is_same_function(self, function: Callable[..., Any]) -> bool:
        """Say whether ``function`` is ours, made once more by a reload of its module or by another
        call of the function around it.

        Two functions of one name in one module are not: one is a copy that was never renamed. Only
        the module's ``__spec__``, new with each load, tells that from an edited module.
        """
        ours, theirs = inspect.unwrap(self.function), inspect.unwrap(function)
        if (ours.__module__, ours.__qualname__) != (theirs.__module__, theirs.__qualname__):
            return False
        spec = _spec_of(function)
        was_reloaded = spec is not self.spec
        typed_into_a_shell = spec is None
        return was_reloaded or typed_into_a_shell or self.where == signatures.where(function)


class Registry:
    """Agents by name. Safe to use from any thread; the module has one, and its methods."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._recorded: dict[Problem, None] = {}  # a set that keeps its order

    def agent(
        self,
        name: str,
        *,
        title: str = "",
        description: str = "",
        on_worker_loss: OnWorkerLoss = "fail",
        max_attempts: int = 3,
        priority: int = 0,
        max_concurrent: int | None = None,
        queue_seconds: float | None = None,
        deadline_seconds: float | None = None,
        idle_seconds: float | None = None,
        call_seconds: float | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function as an agent, and return the function as it is.

        Its first parameter is ``tools``; those after it become the input's JSON Schema, and the
        return annotation the output's. A ``def`` is as good as an ``async def``. Never raises
        because of the function: its problems become system checks.

        Args:
            name: a lower-case letter, then lower-case letters, digits, ``-`` and ``_``, at most 100
                characters in all. Unique in the site.
            title: for people; the name, made readable, if empty.
            description: for people; the docstring up to its first section if empty.
            on_worker_loss: ``"fail"`` ends a run whose worker was lost, ``"requeue"`` starts it
                again.
            max_attempts: how often a run may be claimed in all, from 1 to 1000.
            priority: the queue starts runs with a higher one first, from -100 to 100.
            max_concurrent: how many runs the whole installation may execute at a time; None is no
                limit. Runs that other agents call don't count.
            queue_seconds: how long a run may wait in the queue before it ends as an error; 0 is for
                ever, None is the installation's setting.
            deadline_seconds: how long a run may take from its first start on; then it is asked to
                stop. None is the installation's setting, which is also the most.
            idle_seconds: how long a run may show no sign of life before it is asked to stop: no
                call begun or ended, no streamed text, no ``progress()`` or ``log()``.
            call_seconds: how long a call to a model, an HTTP request or a process may take; then it
                is cut and raises ``CallTimedOut``.
        """
        options = Options(
            on_worker_loss,
            max_attempts,
            priority,
            max_concurrent,
            queue_seconds,
            Limits(deadline_seconds, idle_seconds, call_seconds),
        )
        if callable(name):  # @agent without parentheses
            self._refuse_bare(name)
            return name

        def register(function: F) -> F:
            caller_locals = sys._getframe(1).f_locals
            where = signatures.where(function)
            wrong = [*_wrong_words(name, title, description), *options.problems()]
            reasons = [("agents.E003", *reason) for reason in wrong]
            if not reasons and not inspect.isfunction(function):
                message = f"{type(function).__name__} objects can't be agents."
                reasons = [("agents.E002", message, "Decorate a function, def or async def.")]
            with self._lock:
                known = None if reasons else self._entries.get(name)
                if known is not None and not known.is_same_function(function):
                    message = f"There is an agent of this name already, at {known.where}."
                    hint = "Rename one of them; until then the first one is used."
                    reasons = [("agents.E001", message, hint)]
                for id, message, hint in reasons:
                    self._recorded[Problem(id, str(name), message, hint, where)] = None
                if not reasons:
                    self._entries[name] = _Entry(
                        name,
                        title or re.sub("[-_]+", " ", name).strip().capitalize(),
                        description or _described(function),
                        function,
                        options,
                        signatures.local_names(function, caller_locals),
                        _spec_of(function),
                    )
            return function

        return register

    def get(self, name: str) -> AgentDefinition:
        """Return the agent of that name.

        Raises:
            AgentNotFound: there is none, or it can't be used; the message says what is close.
        """
        entry = self._entries.get(name)
        definition = (entry.definition or self._work_out(entry)) if entry else None
        if definition is None:
            raise AgentNotFound(self._why_not(name))
        return definition

    def all(self) -> list[AgentDefinition]:
        """Return every agent that can be used, by name."""
        with self._lock:
            found = [self._work_out(self._entries[name]) for name in sorted(self._entries)]
        return [definition for definition in found if definition is not None]

    def problems(self) -> list[Problem]:
        """Return the problems of all that was registered, in the order of file and line."""
        with self._lock:
            entries = list(self._entries.values())  # evaluating annotations may import more agents
            for entry in entries:
                self._work_out(entry)
            found = [*self._recorded, *(problem for entry in entries for problem in entry.problems)]
        return sorted(found, key=lambda problem: (problem.where, problem.id, problem.message))

    @contextmanager
    def isolated(self, *, empty: bool = False) -> Iterator[Registry]:
        """Forget at the end, for tests, what was registered meanwhile, in any thread.

        ``empty`` starts without the agents that are there. A module that is imported for the first
        time inside doesn't register its agents again later.
        """
        with self._lock:
            before = dict(self._entries), dict(self._recorded)
            if empty:
                self._entries, self._recorded = {}, {}
        try:
            yield self
        finally:
            with self._lock:
                self._entries, self._recorded = before

    def _refuse_bare(self, function: Callable[..., Any]) -> None:
        name = str(getattr(function, "__name__", type(function).__name__))
        message = "The agent has no name: @agent stands without parentheses."
        hint = f'Write @agent("{name.lower()}").'
        problem = Problem("agents.E003", name, message, hint, signatures.where(function))
        with self._lock:
            self._recorded[problem] = None

    def _work_out(self, entry: _Entry) -> AgentDefinition | None:
        """Return the definition, None if the signature can't be described."""
        with self._lock:
            if entry.definition is None and not entry.problems:
                try:
                    entry.definition = _define(entry)
                except signatures.CannotDescribe as refusal:
                    entry.problems = [
                        Problem("agents.E002", entry.name, message, hint, entry.where)
                        for message, hint in refusal.reasons
                    ]
            return entry.definition

    def _why_not(self, name: str) -> str:
        shown = clean_text(str(name), 100)
        with self._lock:
            entry = self._entries.get(name)
            names = sorted(entry.name for entry in self._entries.values() if not entry.problems)
        if entry is not None and entry.problems:
            return f'The agent "{shown}" can\'t be used: {entry.problems[0].message}'
        close = difflib.get_close_matches(shown, names)
        if close:
            quoted = " or ".join(f'"{match}"' for match in close)
            return f'There is no agent "{shown}". Did you mean {quoted}?'
        if not names:
            return f'There is no agent "{shown}": none is registered.'
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f'There is no agent "{shown}". There are: {some}.'


def _define(entry: _Entry) -> AgentDefinition:
    signature = signatures.read(entry.function, entry.names, entry.title)
    return AgentDefinition(
        name=entry.name,
        title=entry.title,
        description=entry.description,
        function=entry.function,
        is_async=inspect.iscoroutinefunction(entry.function),
        options=entry.options,
        input_schema=signature.input_schema,
        output_schema=signature.output_schema,
        _signature=signature,
    )


def _spec_of(function: Callable[..., Any]) -> object:
    return inspect.unwrap(function).__globals__.get("__spec__")


def _wrong_words(name: object, title: object, description: object) -> Iterator[tuple[str, str]]:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        yield f"{name!r} can't be an agent's name.", f"A name is {NAME_RULE}."
    for option, value in (("title", title), ("description", description)):
        if not isinstance(value, str):
            yield f"The {option} is {value!r}.", f"A {option} is text."


_SECTION: Final = re.compile(
    r"(args|arguments|attributes|examples?|keyword args|notes?|parameters|raises|returns|yields)"
    r"(:\s*(\n|$)|\n-+)|:(param|raises?|returns?|type|rtype)\b",
    re.IGNORECASE,
)


def _described(function: Callable[..., Any]) -> str:
    """Return the docstring up to its first section, such as ``Raises:``."""
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.getdoc(function) or ""):
        if _SECTION.match(paragraph):
            break
        kept.append(paragraph.strip())
    return "\n\n".join(kept)


_default = Registry()

agent = _default.agent
get = _default.get
all = _default.all  # read as registry.all()
problems = _default.problems
isolated = _default.isolated
