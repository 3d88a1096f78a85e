"""The samples do what they say, also when they are stopped at any point."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from agents import should_stop as real_should_stop
from agents.exceptions import LLMError
from agents.samples import agents as samples
from agents.samples.agents import (
    COMPARE,
    PART_CHARACTERS,
    SHORTEN_NOTES,
    TAKE_NOTES,
    compare,
    count_words,
    merge_notes,
    summarise,
    summarise_many,
)
from agents.testing import MemoryDataStore, ScriptedModel, run, running
from tests.support.pdfs import as_data_url, make_pdf

LONG = "".join(f"Paragraph {n} says that stop means stop.\n\n" for n in range(2_500))[:100_000]
PARTS = -(-len(LONG) // PART_CHARACTERS)


def task_of(call: dict[str, Any]) -> str:
    return str(call["messages"][0]["content"])


def tasks(model: ScriptedModel, task: str) -> list[str]:
    """Return what the model was given to do ``task`` with."""
    return [call["messages"][1]["content"] for call in model.calls if task_of(call) == task]


async def hold(messages: object) -> str:
    """Be a model that never answers."""
    await asyncio.Event().wait()
    return ""


class TestSummarise:
    def test_every_part_becomes_a_note_and_the_notes_are_merged(self) -> None:
        model = ScriptedModel(lambda messages: f"Noted {len(messages[1]['content'])}.")

        result = run(summarise, {"document": LONG, "words": 70}, model=model)

        parts = tasks(model, TAKE_NOTES)
        assert "".join(parts) == LONG.strip()
        assert max(map(len, parts)) <= PART_CHARACTERS
        merging = model.calls[-1]["messages"]
        assert "at most 70 words" in merging[0]["content"]
        assert merging[1]["content"] == "\n\n".join(f"Noted {len(part)}." for part in parts)
        assert (result.status, result.result) == ("success", f"Noted {len(merging[1]['content'])}.")

    def test_it_says_how_far_it_is(self) -> None:
        result = run(summarise, {"document": LONG}, model=ScriptedModel())

        progress = [event.data for event in result.events if event.type == "progress"]
        assert [(step["done"], step["total"]) for step in progress] == [
            (done, PARTS) for done in range(PARTS + 1)
        ]

    async def test_the_notes_are_merged_by_an_agent_of_its_own(self) -> None:
        async with running(
            summarise, {"document": "Stop means stop."}, model=ScriptedModel()
        ) as run:
            await run.result()

        assert [child.agent for child in run.children] == ["merge_notes"]

    def test_asked_again_it_reuses_its_notes(self) -> None:
        store = MemoryDataStore()
        first, again, other_words = (ScriptedModel("A note.") for _ in range(3))

        run(summarise, {"document": LONG}, model=first, data_store=store)
        run(summarise, {"document": LONG}, model=again, data_store=store)
        run(summarise, {"document": LONG, "words": 20}, model=other_words, data_store=store)

        assert len(tasks(first, TAKE_NOTES)) == PARTS
        assert tasks(again, TAKE_NOTES) == tasks(other_words, TAKE_NOTES) == []
        assert len(again.calls) == len(other_words.calls) == 1  # merging them
        assert list(store.entries) == ["summarise"]

    @pytest.mark.parametrize("changed", ["text", "prompt", "model"])
    def test_a_note_is_not_reused_once_what_it_depends_on_has_changed(
        self, changed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = MemoryDataStore()
        run(summarise, {"document": "Stop."}, model=ScriptedModel(), data_store=store)
        again = ScriptedModel()
        if changed == "prompt":
            monkeypatch.setattr(samples, "TAKE_NOTES", "Take better notes.")
        if changed == "model":
            again.default_model = "better"
        document = "Stop!" if changed == "text" else "Stop."

        run(summarise, {"document": document}, model=again, data_store=store)

        assert len(again.calls) == 2

    def test_a_changed_part_is_the_only_one_that_is_read_again(self) -> None:
        store = MemoryDataStore()
        again = ScriptedModel()
        run(summarise, {"document": LONG}, model=ScriptedModel(), data_store=store)

        run(summarise, {"document": LONG + " The end."}, model=again, data_store=store)

        assert len(tasks(again, TAKE_NOTES)) == 1

    @pytest.mark.parametrize("stopped_in", range(1, PARTS + 1))
    async def test_stopped_half_way_it_returns_the_notes_that_it_has(self, stopped_in: int) -> None:
        """The stop lands in the middle of a call: that one finishes, and is the last."""

        def reply(messages: object) -> str:
            if len(model.calls) == stopped_in:
                run.stop(reason="enough")
            return f"Note {len(model.calls)}."

        model = ScriptedModel(reply)
        store = MemoryDataStore()
        async with running(summarise, {"document": LONG}, model=model, data_store=store) as run:
            result = await run.result()

        notes = [f"Note {n}." for n in range(1, stopped_in + 1)]
        assert result.status == "stopped"
        assert result.partial_result == "\n\n".join(
            [f"Notes on {stopped_in} of {PARTS} parts:", *notes]
        )
        assert len(model.calls) == stopped_in
        assert run.children == []
        assert result.calls_started_after_stop == 0
        assert sorted(store.entries["summarise"].values()) == sorted(notes)  # paid for, and kept

    async def test_run_again_after_a_stop_it_goes_on_where_it_was(self) -> None:
        def reply(messages: object) -> str:
            if len(stopped.calls) == 3:
                run_.stop()
            return "A note."

        stopped, again = ScriptedModel(reply), ScriptedModel()
        store = MemoryDataStore()
        async with running(summarise, {"document": LONG}, model=stopped, data_store=store) as run_:
            await run_.result()
        async with running(summarise, {"document": LONG}, model=again, data_store=store) as run_:
            result = await run_.result()

        assert result.status == "success"
        assert len(tasks(again, TAKE_NOTES)) == PARTS - 3

    async def test_stopped_before_the_first_note_it_has_nothing_to_return(self) -> None:
        async with running(summarise, {"document": LONG}) as run:
            await run.until_in_flight("data_store.get_many")
            run.stop()
            result = await run.result()

        assert (result.status, result.partial_result) == ("stopped", None)
        assert result.usage.llm_calls == 0
        assert [event.type for event in result.events].count("data_store") == 1

    async def test_stopped_while_the_notes_are_merged_it_returns_them(self) -> None:
        def reply(messages: list[dict[str, Any]]) -> str:
            if messages[0]["content"] == SHORTEN_NOTES:
                run.stop()
            return "word " * 3_000

        model = ScriptedModel(reply)
        async with running(summarise, {"document": LONG}, model=model) as run:
            result = await run.result()

        assert result.status == "stopped"
        assert result.partial_result.startswith(f"Notes on {PARTS} of {PARTS} parts:\n\nword word")
        assert len(tasks(model, SHORTEN_NOTES)) == 1

    async def test_stopped_in_its_very_last_call_it_has_done_its_work(self) -> None:
        def reply(messages: list[dict[str, Any]]) -> str:
            if messages[0]["content"] != TAKE_NOTES:
                run.stop()
            return "A summary."

        async with running(summarise, {"document": "One."}, model=ScriptedModel(reply)) as run:
            result = await run.result()

        assert (result.status, result.result) == ("success", "A summary.")

    async def test_if_only_the_merging_is_stopped_the_notes_are_the_result(self) -> None:
        model = ScriptedModel(lambda messages: "word " * 3_000)

        async with running(summarise, {"document": LONG}, model=model) as run:
            child = await run.child("merge_notes")
            child.stop()
            result = await run.result()

        assert (await child.result()).status == "stopped"
        assert result.status == "success"
        assert result.result.startswith(f"Notes on {PARTS} of {PARTS} parts:\n\nword word")

    def test_a_failing_model_ends_it_with_an_error_and_keeps_the_notes(self) -> None:
        store = MemoryDataStore()
        model = ScriptedModel(["A note.", LLMError("overloaded", status=503)])

        result = run(summarise, {"document": LONG}, model=model, data_store=store)

        assert result.status == "error"
        assert result.error is not None
        assert result.error["code"] == "llm_error"
        assert list(store.entries["summarise"].values()) == ["A note."]

    @pytest.mark.parametrize("document", ["", " \n ", as_data_url(make_pdf(""))])
    def test_a_document_without_text_ends_it_with_an_error(self, document: str) -> None:
        result = run(summarise, {"document": document})

        assert result.status == "error"
        assert result.error is not None
        assert result.error["code"] == "document_error"
        assert result.usage.llm_calls == 0

    def test_an_address_in_a_private_network_ends_it_with_an_error(self) -> None:
        result = run(summarise, {"document": "http://127.0.0.1/admin/"})

        assert result.error is not None
        assert result.error["code"] == "address_refused"
        [request] = [event.data for event in result.events if event.type == "http"]
        assert (request["label"], request["outcome"]) == ("GET 127.0.0.1", "error")

    def test_a_pdf_is_read(self) -> None:
        model = ScriptedModel()

        run(summarise, {"document": as_data_url(make_pdf("Stop means stop."))}, model=model)

        assert tasks(model, TAKE_NOTES) == ["Stop means stop."]

    def test_a_giant_line_is_summarised_by_the_stand_in(self) -> None:
        result = run(summarise, {"document": "x" * 100_000})

        assert result.status == "success"

    def test_the_stand_in_keeps_to_the_length(self) -> None:
        result = run(summarise, {"document": LONG, "words": 30})

        assert 1 <= len(result.result.split()) <= 30


class TestMergeNotes:
    def test_a_few_notes_take_one_call(self) -> None:
        model = ScriptedModel("Merged.")

        result = run(merge_notes, {"notes": ["One.", "Two."], "words": 10}, model=model)

        assert result.result == "Merged."
        assert [call["messages"][1]["content"] for call in model.calls] == ["One.\n\nTwo."]

    def test_many_notes_are_shortened_until_they_fit(self) -> None:
        model = ScriptedModel(lambda messages: messages[1]["content"][: PART_CHARACTERS // 3])

        result = run(merge_notes, {"notes": [f"{n} " * 500 for n in range(90)]}, model=model)

        assert result.status == "success"
        assert len(tasks(model, SHORTEN_NOTES)) > 2
        assert all(len(c["messages"][1]["content"]) <= PART_CHARACTERS for c in model.calls)
        assert task_of(model.calls[-1]) != SHORTEN_NOTES

    def test_a_model_that_cannot_be_brief_does_not_keep_it_going_for_ever(self) -> None:
        model = ScriptedModel(lambda messages: messages[1]["content"] * 2)

        result = run(merge_notes, {"notes": ["x" * 300_000]}, model=model)

        assert result.status == "success"
        assert len(model.calls) < 100


class TestCompare:
    DOCUMENTS = ("Apples are red.", "Pears are green.", "Plums are blue.")

    async def test_each_document_is_read_by_an_agent_of_its_own_and_all_at_once(self) -> None:
        all_three = asyncio.Barrier(3)

        async def reply(messages: list[dict[str, Any]]) -> str:
            if messages[0]["content"] == TAKE_NOTES:
                await all_three.wait()  # none continues until all three are here
            return f"<{messages[1]['content']}>"

        model = ScriptedModel(reply)
        async with running(compare, {"documents": list(self.DOCUMENTS)}, model=model) as run:
            result = await run.result()

        assert [child.agent for child in run.children] == ["summarise"] * 3
        assert [[c.agent for c in child.children] for child in run.children] == [
            ["merge_notes"]
        ] * 3
        assert task_of(model.calls[-1]) == COMPARE.format(words=200)
        assert model.calls[-1]["messages"][1]["content"] == "\n\n".join(
            f"Document {n}: <<{text}>>" for n, text in enumerate(self.DOCUMENTS, 1)
        )
        assert result.result == f"<{model.calls[-1]['messages'][1]['content']}>"

    async def test_a_stop_reaches_the_whole_tree_and_no_call_is_started_after_it(self) -> None:
        async def reply(messages: list[dict[str, Any]]) -> str:
            await asyncio.wait_for(answer.wait(), 5)
            return "A note."

        answer = asyncio.Event()
        model = ScriptedModel(reply)
        async with running(
            compare, {"documents": [LONG, LONG + "2", LONG + "3"]}, model=model
        ) as run:
            await run.until_in_flight("agents.call", 3)
            for n in range(3):
                await (await run.child(count=n + 1)).until_in_flight("call_llm")
            run.stop()
            answer.set()
            result = await run.result()

        children = [await child.result() for child in run.children]
        assert result.status == "stopped"
        assert [child.status for child in children] == ["stopped"] * 3
        assert [child.partial_result for child in children] == [
            f"Notes on 1 of {PARTS} parts:\n\nA note."
        ] * 3
        assert len(model.calls) == 3
        assert result.partial_result == "\n\n".join(
            f"Document {n} was not read to its end." for n in (1, 2, 3)
        )

    async def test_stopped_half_way_it_returns_the_summaries_that_it_has(self) -> None:
        async def reply(messages: list[dict[str, Any]]) -> str:
            if "green" in messages[1]["content"]:
                await asyncio.wait_for(answer.wait(), 5)
            return "Fruit."

        answer = asyncio.Event()
        model = ScriptedModel(reply)
        async with running(compare, {"documents": list(self.DOCUMENTS[:2])}, model=model) as run:
            await (await run.child(count=2)).until_in_flight("call_llm")
            await run.children[0].result()
            run.stop()
            answer.set()
            result = await run.result()

        assert result.status == "stopped"
        assert result.partial_result == (
            "Document 1: Fruit.\n\nDocument 2 was not read to its end."
        )

    @pytest.mark.parametrize("how", ["stopped", "failed"])
    async def test_a_document_that_is_not_read_is_left_out(self, how: str) -> None:
        async def reply(messages: list[dict[str, Any]]) -> str:
            if "red" in messages[1]["content"]:
                if how == "failed":
                    raise LLMError("overloaded", status=503)
                await asyncio.wait_for(answer.wait(), 5)
            return "Fruit."

        answer = asyncio.Event()
        model = ScriptedModel(reply)
        async with running(compare, {"documents": list(self.DOCUMENTS)}, model=model) as run:
            first = await run.child(count=1)
            if how == "stopped":
                await first.until_in_flight("call_llm")
                first.stop()
                answer.set()
            result = await run.result()

        if how == "stopped":
            assert (await first.result()).status == "stopped"
        assert result.status == "success"
        answer_text, left_out = result.result.split("\n\n")
        assert answer_text == "Fruit."
        assert left_out.startswith("Document 1 is left out: summarise ")
        assert "Document 1" not in model.calls[-1]["messages"][1]["content"]

    async def test_with_fewer_than_two_documents_left_it_is_an_error(self) -> None:
        documents = ["Apples are red.", "", ""]

        async with running(compare, {"documents": documents}, model=ScriptedModel()) as run:
            result = await run.result()

        assert result.status == "error"
        assert result.error is not None
        assert result.error["message"].startswith(
            "There are no two documents to compare. Document 2"
        )

    def test_the_summaries_fit_into_one_call_however_many_there_are(self) -> None:
        model = ScriptedModel()

        run(compare, {"documents": [f"Document number {n}." for n in range(20)]}, model=model)

        summaries = [task_of(call) for call in model.calls if "Summarise it" in task_of(call)]
        assert [task.split("at most ")[1] for task in summaries] == ["150 words."] * 20


class TestSummariseMany:
    DOCUMENTS = ("The first.", "The second.", "The third.")

    async def test_there_is_one_answer_for_each_document(self) -> None:
        model = ScriptedModel(lambda messages: f"<{messages[1]['content']}>")
        async with running(summarise_many, {"documents": list(self.DOCUMENTS)}, model=model) as run:
            result = await run.result()

        assert result.result == [f"<<{text}>>" for text in self.DOCUMENTS]
        assert [child.agent for child in run.children] == ["summarise"] * 3
        tools = [event.data["tool"] for event in result.events if event.type == "agent_call"]
        assert tools == ["agents.start"] * 3 + ["agents.wait"] * 3

    async def test_one_that_is_stopped_by_itself_is_left_out(self) -> None:
        async def reply(messages: list[dict[str, Any]]) -> str:
            if "second" in messages[1]["content"]:
                await asyncio.wait_for(answer.wait(), 5)
            return "A note."

        answer = asyncio.Event()
        model = ScriptedModel(reply)
        async with running(summarise_many, {"documents": list(self.DOCUMENTS)}, model=model) as run:
            second = await run.child(count=2)
            await second.until_in_flight("call_llm")
            second.stop()
            answer.set()
            result = await run.result()

        assert result.status == "success"
        assert len(result.result) == 3
        assert result.result[0] == result.result[2] == "A note."

    async def test_stopped_it_returns_the_summaries_that_it_has(self) -> None:
        async def reply(messages: list[dict[str, Any]]) -> str:
            if "first" not in messages[1]["content"] and "A note" not in messages[1]["content"]:
                await asyncio.wait_for(answer.wait(), 5)
            return "A note."

        answer = asyncio.Event()
        model = ScriptedModel(reply)
        async with running(summarise_many, {"documents": list(self.DOCUMENTS)}, model=model) as run:
            await run.until("progress", 2)
            run.stop()
            answer.set()
            result = await run.result()
            ends = [(await child.result()).status for child in run.children]

        assert (result.status, result.partial_result) == ("stopped", ["A note."])
        assert ends == ["success", "stopped", "stopped"]
        assert result.calls_started_after_stop == 0


class TestCountWords:
    def test_the_most_frequent_words_come_first(self) -> None:
        result = run(count_words, {"text": "Stop means stop, and only that.", "top": 2})

        assert result.result == [{"word": "stop", "count": 2}, {"word": "means", "count": 1}]

    async def test_stopped_it_returns_what_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        numbers = itertools.count(1)

        def should_stop() -> bool:
            if next(numbers) == 1_000:
                started.wait(5)
                run.stop()
            return real_should_stop()

        monkeypatch.setattr(samples, "should_stop", should_stop)
        started = threading.Event()
        async with running(count_words, {"text": "stop " * 5_000}) as run:
            started.set()
            result = await run.result()

        assert result.status == "stopped"
        assert result.partial_result == [{"word": "stop", "count": 999}]


def test_each_sample_has_a_title_and_says_what_it_does() -> None:
    from agents import registry

    for agent in (summarise, merge_notes, compare, summarise_many, count_words):
        definition = registry.get(agent.__name__)
        assert definition.title
        assert definition.description
    assert not [problem for problem in registry.problems() if "samples" in problem.where]
