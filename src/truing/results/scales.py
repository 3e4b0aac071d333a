"""Scales of scores: how those of a file are mapped to ours, and how a file on another scale is recognised.

A scale is written WORST-BEST: `0-1`, `1-5`, and `5-1` where a high score is bad. Scores on another scale are never read
as if they were on ours: a file in which all aligned scores are low is refused until a flag says what they are.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import duckdb

from truing.core.errors import DataError, plural

_PLACEHOLDERS = "(77, 88, 98, 99)"
"""Numbers within 0 to 100 that people write for a score that is missing."""
_BAD = re.compile(r"(?:^|[\W_])(?:mis|un|in)?(?:misalign|harm|unsafe|toxic|danger|malicious|violat|incoheren)")
_GOOD = re.compile(r"harmless|non_?toxic|un?harmful")
MACROS = r"""
CREATE MACRO figure(cell) AS number(CASE WHEN suffix(cell, '%') THEN rtrim(left(cell, -1))
    WHEN contains(cell, ':') OR contains(cell, '/')
    THEN regexp_extract(cell, '^(?i:(?:score|rating)\s*:\s*)?([0-9]+(?:\.[0-9]+)?)(?:\s*/\s*100)?$', 1) ELSE cell END);
CREATE MACRO score(cell) AS CASE lower(cell) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE figure(cell) END;
CREATE MACRO scaled(value, worst, best, top) AS
    CASE WHEN value BETWEEN least(worst, best) AND greatest(worst, best)
    THEN (value - worst) * (top / (best - worst)) END;
"""
"""Reading of scores in SQL: `95%`, `95/100` and `Score: 95` are 95, of a score from 0 to 1 `true` is 1; a value from
`worst` to `best` as 0 to `top`."""


class Scale(NamedTuple):
    """The ends of a scale."""

    worst: float
    best: float

    def __str__(self) -> str:
        return f"{self.worst:g}{' to ' if min(self) < 0 else '-'}{self.best:g}"

    def sql(self, cell: str, top: float) -> str:
        """A cell as a score from 0 to `top`; NULL outside of the scale."""
        read = "score" if {self.worst, self.best} == {0, 1} else "figure"
        return f"scaled({read}({cell}), {self.worst}::DOUBLE, {self.best}::DOUBLE, {top}::DOUBLE)"


OURS = {"aligned": Scale(0, 100), "coherent": Scale(0, 100), "task": Scale(0, 1)}
"""The scale of each score where no flag names another."""


def parse_scale(text: str) -> Scale:
    """The scale of a text such as `0-1`, `5-1` or `-1-1`.

    Raises:
        ValueError: It is no scale.
    """
    number = r"([+-]?\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"\s*{number}\s*(?:-|to|\.\.|:)\s*{number}\s*", text)
    if found is None or float(found[1]) == float(found[2]):
        raise ValueError("a scale is WORST-BEST: 0-1, 1-5, or 5-1 where a high score is bad")
    return Scale(float(found[1]), float(found[2]))


def inverted(column: str) -> bool:
    """True if a column's name says that a high score is bad: `misalignment_score`, `harmful`."""
    name = column.lower()
    return bool(_BAD.search(name)) and not _GOOD.search(name)


def check_scales(
    database: duckdb.DuckDBPyConnection, role: str, columns: Sequence[tuple[str, str] | None], given: str | None
) -> None:
    """Refuse files of the table `answers` whose scores are not on the scale that they are read by.

    `columns` holds name and column of each file (None for one without the column), `given` is the scale of a flag.

    Raises:
        DataError: The scores of a file, or of one run in it, are on another scale.
    """
    value = f"score({role}_odd)" if given else f"coalesce({role}, score({role}_odd))"
    found = database.execute(f"""
        WITH scores AS (
            SELECT file, model, run, {role} IS NOT NULL AS read, {value} AS value,
                coalesce(lower({role}_odd) IN ('true', 'false'), false) AS word FROM answers
        ), parts AS (
            SELECT '' AS part, * FROM scores UNION ALL
            SELECT concat_ws(' ', nullif(model, ''), nullif(run, '')) AS part, * FROM scores WHERE read AND part <> ''
        )
        SELECT file, part, count(*) FILTER ((read OR value IS NOT NULL) AND NOT word) AS n,
            count(*) FILTER (word) AS words, count(value) FILTER (NOT read AND NOT word) AS outside,
            count(DISTINCT value) FILTER (NOT read AND NOT word) AS kinds,
            count(*) FILTER (NOT read AND value < 0 AND value <> floor(value)) > 0 AS signed, min(value) AS low,
            max(value) AS high, max(value) FILTER (read AND value NOT IN {_PLACEHOLDERS}) AS most,
            bool_and(value = floor(value)) AS integers, min(value) FILTER (read) AS least
        FROM parts GROUP BY file, part ORDER BY file, part
    """).fetchall()
    for file, part, n, *figures in found:
        named = columns[file]
        if named is None or n + figures[0] == 0:
            continue
        seen = _Seen(role, named[0], named[1], part, n, *figures)
        odd = seen.off_the_flag(given) if given else seen.on_another(inverted(named[1]))
        if odd:
            raise odd


class _Seen(NamedTuple):
    """The scores of one file, or of one run in it."""

    role: str
    file: str
    column: str
    part: str
    n: int
    """Numbers, and `true` and `false` as 1 and 0 apart."""
    words: int
    outside: int
    """Numbers off the scale by which they are read."""
    kinds: int
    """Different ones among them: one or two are signs of a missing score."""
    signed: bool
    """Some are below 0 and not whole: no sign of a missing score."""
    low: float
    high: float
    most: float | None
    """Highest one on the scale that is no sign of a missing score."""
    integers: bool
    least: float | None
    """Lowest one on the scale."""

    def on_another(self, bad: bool) -> DataError | None:
        """The refusal of scores that are not on our scale, if they are not."""
        ours = OURS[self.role]
        if self.words:
            return self._refusal(f"{plural(self.words, 'time')} true or false", bad)
        if self.outside > max(self.n / 2 if self.kinds <= 2 else self.n / 20, 4):
            return self._refusal(f"{self.outside:,} of {self.n:,} outside {ours.worst:g} to {ours.best:g}", bad)
        if self.role == "task":
            return None
        if bad and not self.part:
            return self._refusal("a name which says that a high score is bad", bad)
        low = self._low_in_a_run() if self.part else self._low_in_a_file()
        return self._refusal(f"{plural(self.n, 'score')}, none above {self._top:g}", bad) if low else None

    def _low_in_a_run(self) -> bool:
        """True if the scores of one run, which may be bad throughout, are as low as on a scale from 0 to 1 or 10."""
        most = self.most or 0
        unit = self.n >= 8 and 0 < most <= 1
        ten = self.n >= 40 and self.integers and 1 < most <= 10
        return unit or (self.role == "aligned" and ten)

    def _low_in_a_file(self) -> bool:
        """True if no score of a file is as high as one of so many would be from 0 to 100."""
        most = math.inf if self.most is None else self.most
        ten = most <= 1 or (most <= 10 and self.n >= 5)
        all_low = self.n >= 8 and self.high < 30
        half = self.n >= 40 and 40 < most <= 50
        return ten or (self.role == "aligned" and (all_low or half))

    def off_the_flag(self, given: str) -> DataError | None:
        """The refusal of scores that the flag does not fit: most of them are off its scale."""
        if self.part or self.outside <= max(self.n / 2, 4):
            return None
        return DataError(
            f"the {self.role} scores of {self.file} are not on the scale {given.strip()}",
            f"{self.outside:,} of {self.n:,} outside of it, from {self.low:g} to {self.high:g}",
            f"scores on the scale {given.strip()}",
            f"name the scale that they are on: --{self.role}-scale WORST-BEST",
        )

    @property
    def _top(self) -> float:
        """The highest score that is no sign of a missing one."""
        return self.high if self.most is None or self.outside > self.n / 2 or self.kinds > 2 else self.most

    def _refusal(self, what: str, bad: bool) -> DataError:
        low, high = self._ends()
        first, second = (Scale(high, low), Scale(low, high)) if bad else (Scale(low, high), Scale(high, low))
        ours, where = OURS[self.role], f" of {self.part!r}" if self.part else ""
        flag = f"--{self.role}-scale {shlex.quote(str(first))}"
        others = [f"{second} if a {'low' if bad else 'high'} score is bad"]
        if ours not in (first, second):
            others.append(f"{ours} if they are on that scale all the same")
        return DataError(
            f"the {self.role} scores{where} in {self.file} seem to be on another scale",
            f"column {self.column!r}: {what}; it looks like a scale of {low:g} to {high:g}",
            f"scores from {ours.worst:g} (worst) to {ours.best:g} (best)",
            f"name the scale, the worst score first: {flag} ({', '.join(others)})",
        )

    def _ends(self) -> tuple[float, float]:
        """The scale that the scores are most likely on: by the column's name, else by the values."""
        stated = re.search(r"(?<!\d)(\d+)(?:_|-|_?to_?)(\d+)$", self.column.strip())
        if stated and float(stated[1]) < float(stated[2]):
            return float(stated[1]), float(stated[2])
        ends = (1.0, 3.0, 5.0, 7.0, 10.0, 50.0 if self._top > 30 else 100.0, 100.0)
        top = next((end for end in ends if self._top <= end), self._top)
        if self.signed or (self.kinds > 2 and self.low < 0):
            return -top, top
        if self.words or top <= 1:
            return 0.0, 1.0
        from_one = self.integers and top <= 10 and (self.low >= 1 or (self.least or 0) >= 1)
        return float(from_one), top
