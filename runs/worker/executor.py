"""The agent thread: an event loop of its own on which a worker's runs are tasks.

An agent that blocks its loop delays other agents, and nothing else: requests, heartbeats and the
recorder have threads of their own. The executor knows nothing of Channels, claims or leases.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from asgiref.sync import ThreadSensitiveContext
from django.utils import timezone

from agents import guard_everything, output, registry
from agents.cancellation import CancelToken, StopMode
from agents.environment import Environment
from agents.exceptions import AgentError
from agents.guard import Guard, wait_out
from agents.process.jobs import Jobs
from agents.process.loop import AgentLoop
from agents.process.state import shared
from agents.process.threads import RunThread
from agents.registry import AgentDefinition
from agents.runtime import Outcome, describe_error, run_agent, task_factory
from agents.tools.http.pools import Transports
from agents.tools.llm.client import Model
from agents.trace import Trace, Usage
from runs.actions import abandoning, leases, limit_stops
from runs.actions.finishing import Ended
from runs.conf import conf
from runs.db.threads import DatabaseThreads
from runs.db.transactions import patiently
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopRequest
from runs.exceptions import LeaseLost
from runs.models import RunRecord
from runs.ops import failures
from runs.process import metrics
from runs.signals import receivers
from runs.status import Status
from runs.telemetry.attempts import follow
from runs.telemetry.spans import Attempt, RunSpan
from runs.wire import UnwatchedOnWire, unwatched_of

from .agent_caller import AgentCaller
from .data_store import OwnerStore
from .recorder import Recorder
from .started_runs import StartedRuns
from .watchdog import Watchdog

__all__ = ["Executor"]

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.001  # Python's default is 0.005
LARGE_BYTES = 100_000  # inputs of this size and more are validated in a thread


class Executor:
    """Executes claimed runs on a thread of its own.

    Args:
        recorder: writes the events and the endings.
        on_idle: called in the agent thread whenever a run has ended and its capacity is free.
    """

    def __init__(self, recorder: Recorder, on_idle: Callable[[], object]) -> None:
        self._recorder = recorder
        self._on_idle = on_idle
        self._database = DatabaseThreads()
        options = conf()
        self._loop = AgentLoop(Jobs(options.max_threads, options.max_threads_per_run))
        self._loop.set_task_factory(cast(Any, task_factory))
        self._thread = threading.Thread(target=self._main, name="runs-agents", daemon=True)
        self._tasks: dict[ActiveRun, asyncio.Task[Any]] = {}
        self.started = StartedRuns(self._loop, self._database, self._spawn)
        self._roots: set[ActiveRun] = set()
        self._abandoned: set[ActiveRun] = set()  # their code is still here
        self._watchdog = Watchdog(self._loop, self._thread, lambda: self._roots or self._tasks)
        self._empty = threading.Condition()  # of the two
        self._model: Model | None = None
        self._transports: Transports | None = None
        self._closing = False
        self._is_watched = False  # the state that runs share, because of this thread

    def start(self) -> None:
        output.install()
        # An agent that computes keeps the interpreter for up to this long when another thread
        # needs it. A request needs it again after each of its queries.
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # all objects of now stay: collections need not scan them
        self._loop.call_soon(self._watchdog.start)  # once the loop runs
        self._thread.start()

    @property
    def root_count(self) -> int:
        """How many claimed runs are here; called agents take no capacity of their own."""
        return len(self._roots)

    @property
    def abandoned_count(self) -> int:
        """How many runs were abandoned and have not left: their code takes room, be it called."""
        return len(self._abandoned)

    @property
    def taken_count(self) -> int:
        """How much of the capacity is taken."""
        with self._empty:
            return len(self._roots | self._abandoned)

    @property
    def is_blocked_by_abandoned(self) -> bool:
        """Whether code that was abandoned keeps all others from running."""
        guard = self._watchdog.culprit
        return guard is not None and guard.token.mode is StopMode.ABANDON

    @property
    def blocked_seconds(self) -> float:
        return self._watchdog.blocked_seconds

    @property
    def is_prompt(self) -> bool:
        """Whether a run that is submitted now begins at once: no agent blocks the agents' loop."""
        return self._watchdog.is_prompt

    def submit(
        self,
        record: RunRecord,
        entry: ActiveRun,
        on_end: Callable[[Ended | None], None] | None = None,
    ) -> None:
        """Start a claimed run. From any thread; ``record`` was read with its input.

        ``on_end`` is called in the agents' thread with the run's ending, or with None if its claim
        was lost or its task failed.
        """
        with self._empty:
            self._roots.add(entry)
        self._loop.call_soon_threadsafe(self._start, record, entry, on_end)

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until no run is here but abandoned ones, for at most ``timeout`` seconds."""
        with self._empty:
            return self._empty.wait_for(lambda: self._roots <= self._abandoned, timeout)

    def cancel_all(self) -> None:
        """Cancel the tasks of all runs, and so their calls in flight: the process shuts down."""

        def cancel() -> None:
            for entry, task in list(self._tasks.items()):
                if entry.guard is not None:
                    entry.guard.host_cancelled = True
                task.cancel()

        self._loop.call_soon_threadsafe(cancel, context=contextvars.Context())

    def close(self, timeout: float = 5.0) -> None:
        """End the thread. A task that does not end in time is left running."""
        self._watchdog.close()
        if self._thread.is_alive():
            closing = asyncio.run_coroutine_threadsafe(self._close_tools(), self._loop)
            try:
                closing.result(timeout)
            except Exception as error:
                logger.warning("could not close the agents' connections: %r", error)
            self._loop.call_soon_threadsafe(self._end_loop)
            self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("an agent still blocks the agents' loop; its thread was left running")
        else:
            self._database.close()
        self._unwatch()  # before: else the streams that come back would be a change by a run
        output.uninstall()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        # Importing the SDK takes half a second, which would block the loop during the first run.
        importlib.import_module("agents.tools.llm.endpoint")
        if conf().guard_everything:
            guard_everything()
        # After all imports, which may add filters of warnings and more.
        shared.watch()
        self._is_watched = True
        while not self._closing:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # A task of an agent raised it, and asyncio lets it through. It ends that task and
                # must not end the loop, which all runs share.
                logger.warning("an agent tried to end the process")
        leftover = asyncio.all_tasks(self._loop)
        for task in leftover:
            task.cancel()
        if leftover:
            self._loop.run_until_complete(asyncio.wait(leftover, timeout=1))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
        self._unwatch()

    def _unwatch(self) -> None:
        """Watch the shared state no more: when the thread ends, or is left running."""
        with self._empty:
            was_watched, self._is_watched = self._is_watched, False
        if was_watched:
            shared.unwatch()

    def _end_loop(self) -> None:
        self._closing = True
        self._loop.stop()

    async def _close_tools(self) -> None:
        if self._model is not None:
            await self._model.aclose()
        if self._transports is not None:
            await self._transports.aclose()

    def _tools(self) -> tuple[Model, Transports]:
        if self._model is None or self._transports is None:
            options = conf().llm
            self._model = Model(
                base_url=options.base_url,
                api_key=options.api_key,
                default_model=options.model,
                proxy_url=options.proxy_url,
            )
            self._transports = Transports(conf().http.reach)
        return self._model, self._transports

    def _start(
        self,
        record: RunRecord,
        entry: ActiveRun,
        on_end: Callable[[Ended | None], None] | None,
    ) -> None:
        try:
            task = self._spawn(record, entry)
            metrics.observe_start(record.created_at, timezone.now(), record.attempt)
        except Exception:
            logger.exception("run %s can't be started", entry.id, extra={"run": entry.id})
            self._leave(entry)
            if on_end is not None:
                on_end(None)
            return
        task.add_done_callback(lambda _: self._leave(entry))
        if on_end is not None:
            task.add_done_callback(lambda task: on_end(_ended(task)))

    def _leave(self, entry: ActiveRun) -> None:
        with self._empty:
            self._roots.discard(entry)
            self._empty.notify_all()
        self._on_idle()

    def _spawn(self, record: RunRecord, entry: ActiveRun) -> asyncio.Task[Ended | None]:
        try:
            job = _Job.of(record)
        except Exception:  # an incomplete record, say: the worker ends it as an orphaned run
            local_runs.remove(entry)
            raise
        task: asyncio.Task[Ended | None] = self._loop.create_task(
            self._execute(job, entry), context=contextvars.Context()
        )
        self._tasks[entry] = task
        task.add_done_callback(lambda task: self._forget(entry, task))
        return task

    def _forget(self, entry: ActiveRun, task: asyncio.Task[Any]) -> None:
        """Forget a run whose task is over. If its ending was not written, it is orphaned now."""
        self._tasks.pop(entry, None)
        with self._empty:
            self._abandoned.discard(entry)
        local_runs.remove(entry)
        if not task.cancelled() and (error := task.exception()) is not None:
            run = entry.id
            logger.error("the task of run %s failed", run, exc_info=error, extra={"run": run})

    async def _execute(self, job: _Job, entry: ActiveRun) -> Ended | None:
        """Execute one claimed run, and write its ending; return None if the claim was lost."""
        trace = Trace(
            str(entry.id),
            job.agent,
            self._recorder,
            depth=job.depth,
            last_seq=job.last_seq,
            usage=job.usage,
        )
        entry.token.add_observer(lambda *_: entry.log_why())  # before the guard's own
        guard = Guard(entry.token, trace, owner=job.owner_id, reach=conf().http.reach)
        guard.unwatched_threads = job.unwatched["threads"]
        guard.unwatched_processes = job.unwatched["processes"]
        guard.unwatched_connections = job.unwatched["connections"]
        guard.call_seconds = entry.limits.call_seconds
        attempt = Attempt(entry.id, job.root, job.parent, job.agent, job.depth, entry.attempt)
        span, entry.traceparent = follow(attempt, job.traceparent, guard)
        self._recorder.open(entry, trace)
        entry.guard = guard  # from here on this log records a stop
        entry.log_stop()  # one that came before, and whose token is about to trip
        entry.token.add_callback(lambda _: entry.log_why())
        entry.token.add_callback(lambda _: self._recorder.activity(trace))  # for the receipt
        entry.token.add_callback(partial(self._note_abandoned, entry))
        if job.stop is not None:  # requested before the claim read the record
            entry.deliver(job.stop)
        caller = AgentCaller(entry, guard, self._database, self.started, self._spawn)
        if span is not None:
            span.attach()
        ended: Ended | None = None
        ended_at = 0
        try:
            outcome, failure = failures.without_exception(await self._run(job, caller, guard))
            ended_at = time.time_ns()
            await self.started.end_attempt(entry)
            if outcome.kind in ("stopped", "interrupted") and entry.stop is None:
                await self._note_deadline(entry)
            ended = await self._write_end(trace, outcome)
        finally:
            if span is not None:
                _end(span, ended, trace.usage.since(job.usage), ended_at or time.time_ns())
        if failure is not None and ended is not None and ended.status is Status.ERROR:
            # Not here: a handler of the site's may send a mail.
            receivers.call_soon(partial(failures.log_failure, entry.id, job.agent, failure))
        if entry.token.mode is StopMode.ABANDON:
            note = partial(abandoning.note_left, entry.id, entry.worker, entry.attempt)
            await patiently(partial(self._database.run, note), before_retry=lambda: None)
        return ended

    def _note_abandoned(self, entry: ActiveRun, token: CancelToken) -> None:
        """Count a run whose record is over and whose code is here; a drain does not wait for it."""
        if token.mode is StopMode.ABANDON:
            with self._empty:
                if entry in self._tasks:
                    self._abandoned.add(entry)
                self._empty.notify_all()

    async def _run(self, job: _Job, caller: AgentCaller, guard: Guard) -> Outcome:
        try:
            definition = registry.get(job.agent)
            arguments = await self._arguments(definition, job)
            if job.is_only_claimed and not await self._begin(caller.parent):
                return Outcome("interrupted")
            return await self._call(definition, arguments, job.owner_id, caller, guard)
        except AgentError as error:  # the code changed after the run was queued
            return Outcome("error", error=describe_error(error), exception=error)
        except asyncio.CancelledError:
            return Outcome("interrupted")
        except BaseException as error:  # of any kind: each run needs an ending
            run = guard.trace.run
            logger.exception("run %s could not be executed", run, extra={"run": run})
            return Outcome("error", error=describe_error(error))

    async def _note_deadline(self, run: ActiveRun) -> None:
        """Write why a run has stopped, if that was its deadline and no other process did so."""
        if not (run.token.has_reached_deadline or run.token.is_overdue):
            return

        def before_retry() -> None:
            if run.token.lease.is_over:
                raise LeaseLost("another process ends the run, and writes this")

        note = partial(self._database.run, limit_stops.stop_at_deadline, run)
        # In a context of its own: it is not a task of the agent.
        noting = self._loop.create_task(
            patiently(note, before_retry=before_retry), context=contextvars.Context()
        )
        await wait_out(noting)  # a drain may cancel this task
        if not isinstance(noting.exception(), LeaseLost | None):
            noting.result()

    async def _begin(self, run: ActiveRun) -> bool:
        """Write that a claimed run begins; return False if it may not."""

        def before_retry() -> None:
            if run.token.stopped or run.token.lease.is_over:
                raise LeaseLost("the run may not begin any more")

        try:
            begin = partial(self._database.run, leases.begin, run)
            return await patiently(begin, before_retry=before_retry)
        except LeaseLost:
            return False

    async def _arguments(self, definition: AgentDefinition, job: _Job) -> dict[str, Any]:
        value, job.input = job.input, None  # so that the agent can free a large document
        if job.input_bytes < LARGE_BYTES:
            return definition.validate_input(value)
        return await self._database.run(definition.validate_input, value)

    async def _call(
        self,
        definition: AgentDefinition,
        arguments: dict[str, Any],
        owner_id: Any,
        caller: AgentCaller,
        guard: Guard,
    ) -> Outcome:
        model, transports = self._tools()
        environment = Environment(
            guard,
            model,
            OwnerStore(owner_id, self._database, caller.parent),
            caller,
            transports,
        )
        # The async ORM and sync_to_async() use the thread of this context. Without, all runs and
        # the site would share one, and wait for each other.
        thread = RunThread(f"agent-{definition.name}-orm")
        shared.begin(guard)
        try:
            async with ThreadSensitiveContext(executor=thread):
                return await run_agent(definition, arguments, environment)
        finally:
            await thread.aclose()
            shared.end(guard)

    async def _write_end(self, trace: Trace, outcome: Outcome) -> Ended | None:
        """Pass the ending to the recorder; wait for its commit despite cancellation."""
        written: Future[Ended | None] = Future()
        self._recorder.end(trace, outcome, written.set_result)
        waiting = asyncio.wrap_future(written)
        if await wait_out(waiting) is not None:
            logger.debug("cancelled while the ending of run %s was written", trace.run)
        return waiting.result()


def _end(span: RunSpan, ended: Ended | None, usage: Usage, at: int) -> None:
    if ended is None:
        span.end(None, None, usage, at)
    else:
        span.end(ended.status.value, ended.error, usage, at)


def _ended(task: asyncio.Task[Ended | None]) -> Ended | None:
    return None if task.cancelled() or task.exception() is not None else task.result()


@dataclass(slots=True)
class _Job:
    """The fields of a claimed record that its run needs: thousands of them are in memory."""

    agent: str
    owner_id: Any
    depth: int
    last_seq: int
    is_only_claimed: bool
    usage: Usage  # of earlier attempts, which count too
    stop: StopRequest | None
    input: Any
    input_bytes: int
    unwatched: UnwatchedOnWire  # of earlier attempts
    root: uuid.UUID
    parent: uuid.UUID | None
    traceparent: str | None

    @classmethod
    def of(cls, record: RunRecord) -> _Job:
        """Copy a record that was read with its input and its ``stop_requested_by``."""
        return cls(
            record.agent,
            record.owner_id,
            record.depth,
            record.last_seq,
            record.is_only_claimed,
            Usage(
                record.llm_calls, record.input_tokens, record.output_tokens, record.usage_estimated
            ),
            StopRequest.of(record) if record.stop_requested else None,
            record.input_record.value,
            record.input_record.size_bytes,
            unwatched_of(record),
            record.root_id,
            record.parent_id,
            record.input_record.traceparent,
        )
