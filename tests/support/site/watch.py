"""Agents with much to show: they talk, call each other, fail, print, flood and attack.

The test's ``LLMServer`` decides what the model answers, and when.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, Literal

from pydantic import Field

from agents import AgentStopped, SubAgentFailed, SubAgentStopped, Tools, agent

__all__ = ["HOSTILE", "LONG_WORD"]

#: What a browser must show as plain text.
HOSTILE = (
    "<script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\">"
    "</script></textarea></title>--><svg/onload=alert(1)>"
    "\"'`${alert(1)}{{7*7}}&lt;b&gt;"
    "\u202etxet desrever\u202c\u200b\u200d\ufeff\u2066isolated\u2069\u0007\u001b[31m"
)
LONG_WORD = "unbroken" * 500
_HOSTILE_MARKDOWN = f"""# {HOSTILE}

{HOSTILE}

[a link](javascript:alert(1)) [another](data:text/html,<script>alert(1)</script>)
[upper](JaVaScRiPt:alert(1)) <javascript:alert(1)> ![a picture](https://elsewhere.invalid/x.png)
![and](x "onerror=alert(1)") <a href="javascript:alert(1)" onclick="alert(1)">raw</a>

```html
{HOSTILE}
```

| {HOSTILE.replace("|", "")} | b |
|---|---|
| 1 | {LONG_WORD} |

<iframe src="javascript:alert(1)"></iframe><style>* {{ display: none }}</style>
"""


async def _ask(tools: Tools, text: str) -> str:
    return (await tools.call_llm([{"role": "user", "content": text}])).text


@agent("site-talk", title="Talk about a document")
async def talk(
    tools: Tools,
    document: Annotated[str, Field(json_schema_extra={"format": "textarea"})],
    parts: Annotated[int, Field(ge=1, le=50)] = 3,
) -> str:
    """Read a document part by part, note what the model says, and answer in Markdown."""
    notes: list[str] = []
    tools.log(f"{len(document)} characters")
    try:
        for number in range(1, parts + 1):
            tools.progress(number - 1, parts, f"part {number}")
            notes.append(await _ask(tools, f"Part {number}: {document}"))
            await tools.data_store.set(f"part-{number}", notes[-1])
            print(f"noted part {number}")
        tools.progress(parts, parts, "done")
    except AgentStopped:
        if not notes:
            raise
    return "\n".join(["## Notes", "", *(f"- **{note}**" for note in notes)])


@agent("site-elder", title="The elder")
async def elder(tools: Tools) -> str:
    """Ask the model twice."""
    return " ".join([await _ask(tools, "the elder asks"), await _ask(tools, "and asks again")])


@agent("site-younger", title="The younger")
async def younger(tools: Tools) -> str:
    """Ask the model again and again, until stopped."""
    while True:
        await _ask(tools, "the younger asks")
        await asyncio.sleep(0.1)


@agent("site-family", title="Ask the family")
async def family(tools: Tools) -> list[str]:
    """Call two agents at once; continue without one that is stopped by itself."""

    async def ask(name: str) -> str:
        try:
            return f"{name}: {await tools.agents.call(name)}"
        except (SubAgentStopped, SubAgentFailed) as error:
            tools.log(f"going on without {name}: {error}", level="warning")
            return f"{name} is left out"

    return list(await asyncio.gather(ask("site-elder"), ask("site-younger")))


@agent("site-fail", title="Fail half-way")
async def fail(tools: Tools, question: str = "why?") -> str:
    """Ask the model, and then trip."""
    answer = await _ask(tools, question)
    try:
        return str(_stumble(answer, 5))
    except ZeroDivisionError as error:
        raise ValueError("the answer can't be divided\ninto nothing") from error


def _stumble(answer: str, depth: int) -> float:
    return _stumble(answer, depth - 1) if depth else len(answer) / 0


@agent("site-printer", title="Print a lot")
async def printer(tools: Tools, lines: int = 400) -> dict[str, Any]:
    """Print, on one line and on many, and log at every level."""
    print("\n".join(f"line {number} of {lines}" for number in range(1, lines + 1)))
    print("long " * 4_000)
    for level in ("debug", "info", "warning", "error"):
        tools.log(f"a word at level {level}", level=level)
    logging.getLogger("site.printer").warning("by way of logging")
    return {"lines": lines, "nested": {"list": [1, 2.5, None, True, "text"]}}


@agent("site-flood", title="Flood the log")
async def flood(
    tools: Tools, lines: int = 5_000, pause: float = 0.0, ask_every: int = 10_000, size: int = 0
) -> int:
    """Log thousands of lines as fast as possible; pause ``pause`` seconds after each hundred.

    Each line is ``size`` characters longer than necessary.

    After each ``ask_every`` lines it asks the model, so that a test can let it wait there.
    """
    for number in range(1, lines + 1):
        tools.log(f"flood {number}" + "." * size)
        if number % 100 == 0:
            await asyncio.sleep(pause)
        if number % ask_every == 0:
            await _ask(tools, "go on?")
    return lines


@agent(
    "site-hostile",
    title=f"Hostile {HOSTILE}",
    description=f"Its description: {HOSTILE} {LONG_WORD}",
)
async def hostile(
    tools: Tools,
    text: Annotated[str, Field(title=HOSTILE, description=HOSTILE)] = HOSTILE,
    shape: Literal["markdown", "json", "error", "wait"] = "markdown",
) -> Any:
    tools.log(HOSTILE)
    tools.log(LONG_WORD, level="error")
    print(HOSTILE)
    print(LONG_WORD)
    tools.progress(1, 2, HOSTILE)
    await tools.data_store.set(HOSTILE[:200].replace("\u0007", "").replace("\u001b", ""), text)
    reply = await tools.call_llm([{"role": "user", "content": text}], model=f"model {HOSTILE}")
    match shape:
        case "error":
            raise type(f"Error{LONG_WORD[:80]}", (Exception,), {})(HOSTILE)
        case "json":
            return {HOSTILE: [HOSTILE, LONG_WORD], "reply": reply.text}
        case "wait":
            await asyncio.sleep(0)
            return await tools.agents.call("site-loop")
    return _HOSTILE_MARKDOWN
