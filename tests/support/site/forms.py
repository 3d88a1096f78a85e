"""An agent whose input has everything that a form can hold."""

from __future__ import annotations

import datetime
import enum
import uuid
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field, HttpUrl, SecretStr

from agents import Tools, agent


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Person(BaseModel):
    """A person to write to."""

    name: str = Field(min_length=2, max_length=40)
    email: Annotated[str, Field(json_schema_extra={"format": "email"})]
    is_member: bool = True


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)] = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Node(BaseModel):
    """A tree without an end, unless it is stopped."""

    name: str
    children: list[Node] = []
    best: Node | None = None


Document = Annotated[
    str, Field(json_schema_extra={"format": "textarea", "x-accept": "text/*,.md,application/pdf"})
]


@agent("site-form", title="Everything a form can hold")
async def form(
    tools: Tools,
    text: Annotated[str, Field(description="One line of ``text``.")],
    person: Person,
    colour: Colour,
    long_text: Annotated[str, Field(json_schema_extra={"format": "textarea"})] = "",
    word: Annotated[str, Field(pattern="^[a-z]+$", max_length=5)] = "abc",
    whole: Annotated[int, Field(ge=1, le=5000)] = 200,
    share: Annotated[float, Field(gt=0, lt=1, multiple_of=0.05)] = 0.5,
    maybe_number: int | None = None,
    is_loud: bool = False,
    answer: bool | None = None,
    level: Literal["low", "middle", "high"] = "middle",
    country: Literal["at", "be", "ch", "de", "fr", "in"] | None = None,
    colours: set[Colour] = set(),  # noqa: B006  never changed
    words: Annotated[list[str], Field(max_length=3)] = [],  # noqa: B006
    people: list[Person] = [],  # noqa: B006
    helper: Person | None = None,
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None,
    either: int | str | list[int] = 3,
    tree: Node | None = None,
    weights: dict[str, float] = {},  # noqa: B006
    pair: tuple[int, str] = (1, "one"),
    day: datetime.date | None = None,
    instant: AwareDatetime | None = None,
    time: datetime.time | None = None,
    pause: datetime.timedelta | None = None,
    homepage: HttpUrl | None = None,
    id: uuid.UUID | None = None,
    secret: SecretStr | None = None,
    anything: Any = None,
    document: Document = "",
) -> str:
    """Take all kinds of values, and say how long their ``repr`` is.

    Only for tests:

    - it calls no model,
    - and it keeps nothing.
    """
    return str(len(repr(locals())))
