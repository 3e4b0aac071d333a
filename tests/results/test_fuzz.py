"""Damaged and odd judged files: an error of ours or a result, never a traceback, and never a row that nobody counts."""

import csv
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.results.test_documents import LONG, TEXTS, lines
from tests.results.test_readings import table, text_of
from truing.core.errors import TruingError
from truing.results.formats import FORMATS, ending_of
from truing.results.from_files import JudgedOptions, read_judged

SEEDS = {
    **{name: text.encode() for name, text in TEXTS.items()},
    "scales.csv": text_of(table(aligned=lambda row, i: i % 2, seed=lambda row, i: f"seed{i % 3}")).encode(),
    "labels.csv": text_of(table(step=lambda row, i: f"checkpoint-{i % 4}", judge=lambda row, i: "ab"[i % 2])).encode(),
    "odd.jsonl": (lines(table()[:9]) + '{"question": "half \\ud800", "aligned": NaN}\n{"aligned": null}\n').encode(),
    "long.csv": text_of(LONG[:40]).encode(),
}
"""Small files of every kind, which are cut short and changed at random."""
TOKENS = [
    b'"', b"'", b",", b";", b"\t", b"|", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"#", b"sep=;\n", b"%", b"-1", b"999", b"1e400", b"nan", b"true", b"[", b"]", b"{", b"}", b"null", b"\\ud800",
    b"0,5", b"aligned", b"question_id", b"''", b"--", b"$", b"*", b"judge", b"\\", b"checkpoint-1", b"1_0",
    b"{}", b"[]", b'""',
]  # fmt: skip


def shortened(seed: bytes, chance: random.Random) -> bytes:
    """A few lines of a seed, or all of it where it is one line."""
    rows = seed.splitlines(keepends=True)
    return b"".join(rows[: chance.randint(2, 25)]) if len(rows) > 2 else seed


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(shortened(seed, chance))
    for _ in range(chance.choice((0, 1, 1, 2, 4, 8))):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + 60)
        changes: list[Callable[[], object]] = [
            lambda: data.__setitem__(slice(at, at), chance.choice(TOKENS)),  # noqa: B023
            lambda: data.__delitem__(slice(at, end)),  # noqa: B023
            lambda: data.__setitem__(slice(at, at), data[at:end]),  # noqa: B023
            lambda: data.__setitem__(slice(at, at + 1), bytes([chance.randrange(256)])),  # noqa: B023
        ]
        chance.choice(changes)()
    return bytes(data)


def given_rows(name: str, data: bytes) -> int | None:
    """Rows in a file by a reader of its own; None where that reader cannot say."""
    text = data.decode("utf-8-sig")
    if name.endswith(".jsonl") and not text.lstrip().startswith("["):
        try:
            return sum(isinstance(json.loads(line), dict) for line in text.split("\n") if line.strip())
        except ValueError:
            return None
    if not name.endswith(".csv") or name.startswith(("stated", "comments", "long")) or text.startswith(("sep=", "#")):
        return None
    delimiter = {"tabs.csv": "\t", "semicolons.csv": ";", "bars.csv": "|"}.get(name, ",")
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    return len(rows) - 1 if rows and all(len(row) == len(rows[0]) > 1 for row in rows) else None


def check(path: Path, data: bytes) -> str:
    """Read a file; every row of it is counted, or said to be left out."""
    path.write_bytes(data)
    options = JudgedOptions(duplicates="keep", ignore=["judge"], aligned_scale="0-100")
    try:
        source = read_judged([path], options)
    except TruingError:
        return "refused"
    counted = sum(int((c.broad.judged + c.broad.missing).sum()) for run in source.runs for c in run.checkpoints)
    told = [re.match(r"([\d,]+) of [\d,]+ rows? left out for want of a question", each) for each in source.notes]
    left_out = sum(int(found[1].replace(",", "")) for found in told if found)
    rows = given_rows(path.name, data)
    lacking = any("count as missing there" in each for each in source.notes)  # counted, and in no row
    right = rows is None or (counted + left_out > rows if lacking else counted + left_out == rows)
    assert right, f"{rows} rows, {counted} counted, {left_out} left out: {data!r}"
    return "read"


@pytest.mark.parametrize(
    "n", [pytest.param(12, id="few"), pytest.param(150, id="many", marks=pytest.mark.slow)]
)  # for each seed: 290 and 3,600 in all, which take four minutes: the database costs 60 ms a file
@pytest.mark.parametrize("name", SEEDS)
def test_changed_files_are_read_whole_or_refused(tmp_path: Path, name: str, n: int) -> None:
    chance = random.Random(f"{name} {n}")
    found = [check(tmp_path / name, mutated(SEEDS[name], chance)) for _ in range(n)]
    assert found.count("read") + found.count("refused") == n


@pytest.mark.parametrize("n", [pytest.param(100, id="few"), pytest.param(10_000, id="many", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in SEEDS if FORMATS[ending_of(Path(name))].rewrite])
def test_changed_files_are_written_again_whole_or_refused(tmp_path: Path, name: str, n: int) -> None:
    """What stands before the database: no traceback, and of JSON Lines as many lines as there were objects."""
    source, target, chance = tmp_path / name, tmp_path / f"plain-{name}", random.Random(f"{name} {n}")
    form = FORMATS[ending_of(source)]
    assert form.rewrite is not None
    for _ in range(n):
        data = mutated(SEEDS[name], chance)
        source.write_bytes(data)
        try:
            form.rewrite(source, target)
        except (TruingError, UnicodeDecodeError, csv.Error):  # the last two are told in words by their caller
            continue
        rows = given_rows(name, data) if form.plain == ".jsonl" else None
        assert rows is None or target.read_bytes().count(b"\n") == rows, data
