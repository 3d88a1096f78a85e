"""What the readers of a process may take: places, and bytes that they have not read."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import Any

import pytest

from runs.web.feed import Frame, NoPlace, Place, limits
from runs.web.feed.frames import LARGE_CHARACTERS, Shared
from runs.web.feed.limits import Unsent
from runs.web.feed.rights import Viewer


class TestPlaces:
    @pytest.fixture(autouse=True)
    def two_each(self, settings: Any) -> None:
        settings.RUNS = {**settings.RUNS, "MAX_FEEDS_PER_OWNER": 2, "MAX_WAITERS_PER_OWNER": 1}

    def test_are_counted_for_each_user_and_kind(self) -> None:
        taken = [Place("feeds", 1), Place("feeds", 1), Place("feeds", 2), Place("waiters", 1)]
        with pytest.raises(NoPlace) as refused:
            Place("feeds", 1)
        assert (refused.value.what, refused.value.used, refused.value.allowed) == ("feeds", 2, 2)
        taken[0].leave()
        taken[0].leave()  # once more changes nothing
        taken.append(Place("feeds", 1))
        with pytest.raises(NoPlace):
            Place("feeds", 1)

    def test_that_no_one_holds_are_free(self) -> None:
        """Of a stream whose client left before it began, say."""
        Place("waiters", 3)
        gc.collect()
        Place("waiters", 3).leave()

    def test_without_a_limit_are_never_refused(self, settings: Any) -> None:
        settings.RUNS = {**settings.RUNS, "MAX_FEEDS_PER_OWNER": 0}
        assert len([Place("feeds", 1) for _ in range(1_000)]) == 1_000


class _Reader:
    def __init__(self, user: int) -> None:
        self.viewer = Viewer(user)
        self.closed_for: list[str] = []

    def close_for(self, why: Any) -> None:
        self.closed_for.append(why)


def _frame(size: int) -> Frame:
    return Frame("run", Shared("x" * size))


class TestUnsent:
    @pytest.fixture(autouse=True)
    def small_budgets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "MOST_UNSENT_BYTES_OF_USER", 4 * LARGE_CHARACTERS)
        monkeypatch.setattr(limits, "MOST_UNSENT_BYTES", 6 * LARGE_CHARACTERS)

    def test_a_shared_frame_counts_once(self) -> None:
        unsent, frame = Unsent(), _frame(3 * LARGE_CHARACTERS)
        readers = [_Reader(1) for _ in range(50)]
        with ExitStack() as sending:
            for reader in readers:
                sending.enter_context(unsent.sending(reader, [frame]))
            assert unsent.total_bytes == 3 * LARGE_CHARACTERS
            assert not any(reader.closed_for for reader in readers)
        assert unsent.total_bytes == 0
        assert not unsent._holders
        assert not unsent._bytes

    def test_a_user_s_longest_waiting_reader_makes_room(self) -> None:
        unsent = Unsent()
        first, second, third, other = _Reader(1), _Reader(1), _Reader(1), _Reader(2)
        with ExitStack() as sending:
            for reader in (other, first, second, third):
                size = (2 if reader is not other else 1) * LARGE_CHARACTERS + 1
                sending.enter_context(unsent.sending(reader, [_frame(size)]))
            assert first.closed_for == second.closed_for == ["unread"]
            assert not other.closed_for
            assert not third.closed_for
        assert unsent.total_bytes == 0

    def test_all_together_have_a_budget(self) -> None:
        unsent = Unsent()
        readers = [_Reader(user) for user in range(4)]
        with ExitStack() as sending:
            for reader in readers:
                sending.enter_context(unsent.sending(reader, [_frame(2 * LARGE_CHARACTERS)]))
            assert [bool(reader.closed_for) for reader in readers] == [True, False, False, False]

    def test_one_frame_beyond_the_budget_is_sent(self) -> None:
        unsent, reader = Unsent(), _Reader(1)
        with unsent.sending(reader, [_frame(50 * LARGE_CHARACTERS)]):
            assert not reader.closed_for

    def test_small_frames_count_for_all_alone(self) -> None:
        unsent = Unsent()
        readers = [_Reader(1) for _ in range(5)]
        with ExitStack() as sending:
            for reader in readers:
                sending.enter_context(unsent.sending(reader, [_frame(LARGE_CHARACTERS)]))
            assert unsent.total_bytes == 5 * LARGE_CHARACTERS
            assert not any(reader.closed_for for reader in readers)
