"""The agents in docs/sdks.md that need openai 2, or are tested with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agents.testing import MemoryDataStore, running
from tests.support.new_site import write_package

from ..examples import IN_OPENAI2, defined, source
from ..model_server import ModelServer
from .conftest import WARNINGS

pytestmark = pytest.mark.filterwarnings(*WARNINGS)

BESIDE_THE_WHEEL = "with_openai_agents"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.mark.parametrize("name", [name for name in IN_OPENAI2 if name != BESIDE_THE_WHEEL])
@pytest.mark.parametrize("turn", [1, 2])
async def test_it_is_stopped_in_a_call_and_keeps_what_it_has(
    server: ModelServer, tmp_path: Path, request: Any, name: str, turn: int
) -> None:
    if name == "with_litellm":
        request.getfixturevalue("everything_is_guarded")
    store = MemoryDataStore()
    server.hold()
    with defined(name, tmp_path) as agent:
        async with running(agent, {"question": "What is there?"}, data_store=store) as run:
            for number in range(1, turn):
                await server.until_requests(number)
                server.let_go()
            await server.until_requests(turn)
            run.stop()
            server.release()
            result = await run.result()
    assert (result.status, result.error, result.cleanup_error) == ("stopped", None, None)
    assert server.request_count == turn
    assert result.partial_result == [f"thing {number}" for number in range(turn)]
    assert result.usage.llm_calls == turn


@pytest.mark.parametrize("model", ["OpenAIResponsesModel", "OpenAIChatCompletionsModel"])
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("has_argument", [False, True])
def test_the_sdk_for_agents_is_stopped_beside_the_installed_package(
    server: ModelServer,
    tmp_path: Path,
    package: Path,
    model: str,
    is_streamed: bool,
    has_argument: bool,
) -> None:
    """Its package has the name of ours, so this takes a process that has ``halting`` instead."""
    text = source(BESIDE_THE_WHEEL).replace(
        "from agents import AgentStopped,", "from halting.agents import AgentStopped,"
    )
    text = text.replace("OpenAIResponsesModel", model)
    if not has_argument:
        text = text.replace("http_client=http", "").replace(
            "@agent(",
            "from halting.agents import guard_everything\nguard_everything()\n\n\n@agent(",
        )
        assert "AsyncOpenAI()" in text
    if is_streamed:
        text = text.replace(
            "await Runner.run(looking, question, max_turns=1000)",
            "streaming = Runner.run_streamed(looking, question, max_turns=1000)\n"
            "            async for _ in streaming.stream_events():\n"
            "                pass",
        )
        assert "run_streamed" in text
    script = tmp_path / "script.py"
    script.write_text(text + textwrap.dedent(STOPPING))
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": str(package),
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == "stopped", told
    assert told["kept"] == [f"thing {number}" for number in range(len(told["kept"]))]
    assert 2 <= told["calls"] == server.request_count <= 4
    assert len(told["kept"]) >= 1


STOPPING = """

    from halting.agents.testing import running


    async def main() -> None:
        async with running(with_openai_agents, {"question": "What is there?"}) as run:
            await run.until("llm_call", 2)
            run.stop()
            result = await run.result()
        told = {"status": result.status, "kept": result.partial_result}
        print(json.dumps({**told, "calls": result.usage.llm_calls}))


    asyncio.run(main())
"""
