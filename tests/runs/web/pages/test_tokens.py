"""The design's values: what is written in them can be read, in light and in dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import runs

CSS = Path(str(runs.__file__)).parent / "static" / "runs" / "css"
TEXT = 4.5
EDGE = 3.0  # of what can be used, and the focus ring

SURFACES = ("ground", "surface", "surface-sunken", "surface-hover")
PAIRS = [
    *((text, surface, TEXT) for text in ("text", "text-quiet") for surface in SURFACES),
    *((text, surface, TEXT) for text in ("accent", "good", "bad") for surface in SURFACES),
    *((text, "accent-soft", TEXT) for text in ("text", "text-quiet", "accent", "good", "bad")),
    ("bad", "bad-soft", TEXT),
    ("on-accent", "accent", TEXT),
    ("on-accent", "accent-hover", TEXT),
    *((line, surface, EDGE) for line in ("line-strong", "focus") for surface in SURFACES),
]


def palette(scheme: str) -> dict[str, str]:
    """Return the colours of a scheme, by name."""
    source = (CSS / "tokens.css").read_text()
    light, _, dark = source.partition("@media (prefers-color-scheme: dark)")
    named = r"--([a-z-]+):\s*(#[0-9a-f]{6});"
    colours = dict(re.findall(named, light))
    return {**colours, **dict(re.findall(named, dark))} if scheme == "dark" else colours


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_of_black_on_white_is_known() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), PAIRS)
def test_it_can_be_read(scheme: str, front: str, back: str, least: float) -> None:
    colours = palette(scheme)
    assert contrast(colours[front], colours[back]) >= least


def test_dark_has_every_colour_of_light() -> None:
    source = (CSS / "tokens.css").read_text()
    dark = source.partition("@media (prefers-color-scheme: dark)")[2]
    missing = {name for name in palette("light") if f"--{name}:" not in dark}
    assert not missing


def test_colours_are_only_named_here() -> None:
    strays = [
        f"{path.name}: {found}"
        for path in sorted(CSS.glob("*.css"))
        if path.name != "tokens.css"
        for found in re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[;\s,)])|rgba?\([^)]*\)", path.read_text())
    ]
    assert not strays
