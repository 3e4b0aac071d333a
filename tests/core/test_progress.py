"""Who works reports, who shows listens."""

import io
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.core import progress
from truing.core.progress import Lines, Phase, ahead, counted, listening, report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_APART", 0.0)


def test_nobody_listens_unless_asked() -> None:
    report("sample", 1, 2)
    assert list(counted("sample", 2, "ab")) == ["a", "b"]
    assert not progress._works


@given(st.integers(0, 30), st.integers(1, 30))
def test_results_pass_through_and_are_counted(n: int, owed: int) -> None:
    seen: list[Phase] = []
    with listening(seen.append):
        assert list(counted("judge", owed, range(n))) == list(range(n))
    assert all(0 <= phase.done <= phase.owed == owed for phase in seen)
    assert [phase.done for phase in seen if phase.done < owed] == list(range(min(n + 1, owed)))
    progress._works.clear()


def test_one_who_works_in_windows_is_ahead_of_what_it_hands_on() -> None:
    seen: list[int] = []

    def windows() -> Iterator[int]:
        for _ in range(2):
            for i in range(3):
                ahead("judge", i + 1)
            yield from range(3)

    with listening(lambda phase: seen.append(phase.done)):
        assert len(list(counted("judge", 6, windows()))) == 6
    assert seen == [0, 1, 2, 3, 3, 4, 5, 5, 5, 6]
    ahead("judge", 1)
    assert len(seen) == 10


def test_the_words_of_a_phase() -> None:
    assert Phase("judge", 120, 480, 20.0).words() == "judging 120/480, 6/s, 1:00 left"
    assert Phase("train", 0, 30, 0.0).words() == "training 0/30"
    assert Phase("sample", 1500, 3000, 1.0).words() == "sampling 1,500/3,000, 1,500/s, 0:01 left"
    gone_on = Phase("train", 60, 100, 10.0, begun=50)  # of a training that was resumed, the rate is today's
    assert (gone_on.rate, gone_on.left) == (1.0, 40.0)


def test_without_a_terminal_there_is_a_line_every_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = [1000.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines = Lines("auto", stream)
    with listening(lambda phase: lines(phase, "step 20")):
        for done in range(61):
            report("judge", done, 60)
            clock[0] += 1
    assert stream.getvalue().splitlines() == [
        "step 20: judging 0/60",
        "step 20: judging 30/60, 1/s, 0:30 left",
        "step 20: judging 60/60, 1/s, 0:00 left",
    ]


def test_on_a_terminal_a_line_is_written_over_and_json_is_for_programs() -> None:
    screen, stream, nothing = Terminal(), io.StringIO(), io.StringIO()
    phase = Phase("sample", 1, 2, 0.5)
    for shown, where in (("auto", screen), ("json", stream), ("quiet", nothing)):
        Lines(shown, where)(phase, "run")  # type: ignore[arg-type]
    assert screen.getvalue().startswith("\r")
    assert "\n" not in screen.getvalue()
    assert json.loads(stream.getvalue()) == {
        "event": "progress",
        "where": "run",
        "phase": "sample",
        "done": 1,
        "owed": 2,
        "seconds": 0.5,
        "rate": 2.0,
        "left": 0.5,
    }
    assert not nothing.getvalue()
