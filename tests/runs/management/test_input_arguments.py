"""From ``--input`` arguments to an agent's input."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from runs.management.input_arguments import Problems, read_input, read_json_input

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 40
SENTENCE = "In {n} the ship number {n} left harbour {n} at dawn, and {n} people saw her sail. "


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "flag": {"type": "boolean"},
        "maybe_count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "maybe_text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "texts": {"type": "array", "items": {"type": "string"}},
        "maybe_texts": {"anyOf": [{"$ref": "#/$defs/Texts"}, {"type": "null"}]},
        "counts": {"type": "array", "items": {"type": "integer"}},
        "object": {"$ref": "#/$defs/Thing"},
        "colour": {"enum": ["red", "blue"]},
        "anything": {},
    },
    "$defs": {
        "Thing": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "Texts": {"type": "array", "items": {"type": "string"}},
    },
}


def _read(*arguments: str) -> dict[str, Any]:
    given, problems = read_input(arguments, SCHEMA, max_bytes=1000)
    assert problems == {}
    return given


def _problems(*arguments: str) -> Problems:
    return read_input(arguments, SCHEMA, max_bytes=1000)[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["text=12"], {"text": "12"}),
        (["text="], {"text": ""}),
        (["text=a=b"], {"text": "a=b"}),
        (["text=null"], {"text": "null"}),
        (["text=@@home"], {"text": "@home"}),
        (["count=12"], {"count": 12}),
        (["ratio=1"], {"ratio": 1}),
        (["ratio=0.5"], {"ratio": 0.5}),
        (["flag=true"], {"flag": True}),
        (["maybe_count=null"], {"maybe_count": None}),
        (["maybe_count=3"], {"maybe_count": 3}),
        (["maybe_text=null"], {"maybe_text": None}),
        (["maybe_text=12"], {"maybe_text": "12"}),
        (["either=12"], {"either": 12}),
        (["either=12 ships"], {"either": "12 ships"}),
        (["either=true"], {"either": "true"}),
        (["texts=a", "texts=12"], {"texts": ["a", "12"]}),
        (['texts=["a", "b"]', "texts=c"], {"texts": ["a", "b", "c"]}),
        (["texts=[a]"], {"texts": ["[a]"]}),
        (["texts=[]"], {"texts": []}),
        (["maybe_texts=a", "maybe_texts=b"], {"maybe_texts": ["a", "b"]}),
        (["counts=1", "counts=[2, 3]"], {"counts": [1, 2, 3]}),
        (['object={"a": 1}'], {"object": {"a": 1}}),
        (["colour=red"], {"colour": "red"}),
        (["anything=[1]"], {"anything": [1]}),
        (["anything=some words"], {"anything": "some words"}),
        (["unheard_of=1"], {"unheard_of": "1"}),
    ],
)
def test_a_value_means_what_its_parameter_takes(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    assert _read(*arguments) == expected


def test_what_does_not_fit_is_left_to_the_schema() -> None:
    assert _read("count=1.5", "flag=1") == {"count": 1.5, "flag": 1}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    arguments = ("count=many", "flag=yes", "text=a", "text=b", "alone", "=x", "ratio=NaN")
    given, fields = read_input([*arguments, "object={"], SCHEMA, max_bytes=1000)
    assert fields["input.count"] == ["'many' is not a whole number."]
    assert fields["input.flag"] == ["'yes' is not true or false."]
    assert fields["input.text"] == ["It was given twice, and it takes one value."]
    assert fields["input.ratio"] == ["'NaN' is not a number."]
    assert fields["input.object"] == ["'{' is not an object in JSON."]
    assert len(fields["input"]) == 2
    assert given == {"text": "a"}


def test_a_file_gives_its_text_and_its_json(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbf[1]\r\nGr\xc3\xbc\xc3\x9fe")
    (tmp_path / "counts").write_text("[1, 2]\n")
    given = _read(f"text=@{tmp_path}/text", f"texts=@{tmp_path}/text", f"counts=@{tmp_path}/counts")
    text = "[1]\r\nGrüße"
    assert given == {"text": text, "texts": [text], "counts": [1, 2]}


def test_a_pdf_becomes_a_data_url(tmp_path: Path) -> None:
    content = b"%PDF-1.4\n\xff\xfe\x00"
    (tmp_path / "a").write_bytes(content)
    url = f"data:application/pdf;base64,{base64.b64encode(content).decode()}"
    given = _read(f"text=@{tmp_path}/a", f"texts=@{tmp_path}/a", "texts=b")
    assert given == {"text": url, "texts": [url, "b"]}


@pytest.mark.parametrize(
    ("content", "argument", "message"),
    [
        (b"ab\xffc", "text=@FILE", "no text in UTF-8 (byte 2 is 0xff)"),
        (b"%PDF-\xff", "count=@FILE", "a PDF"),
        (b"x" * 1001, "text=@FILE", "more than 1,000 bytes"),
        (b"", "text=@FILE/missing", "can't be read: Not a directory"),
        (b"", "text=@/", "can't be read: Is a directory"),
        (b"", "text=@", "comes the name of a file"),
        (b"", "text=@a\0b", "can't be the name of a file"),
    ],
)
def test_a_file_that_can_not_be_used(
    content: bytes, argument: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    assert message in str(_problems(argument.replace("FILE", f"{tmp_path}/file")))


def test_input_json_comes_as_text_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"n": 1}')
    assert read_json_input('{"n": 1}', max_bytes=100) == ({"n": 1}, {})
    assert read_json_input(f"@{tmp_path}/a.json", max_bytes=100) == ({"n": 1}, {})
    for wrong in ("{", "[" * 100_000, "NaN", f"@{tmp_path}/none"):
        assert read_json_input(wrong, max_bytes=100)[1]["input"]
