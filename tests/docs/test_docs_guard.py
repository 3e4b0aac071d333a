"""docs/guard.md: every snippet runs, and its table is made of the fields."""

import re
from pathlib import Path
from typing import Any

import pytest

from truing.integrations.guard import GuardConfig

TEXT = (Path(__file__).parents[2] / "docs" / "guard.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.pin_memory.:UserWarning")
def test_every_snippet_runs_and_the_guard_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    snippets = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(snippets) == 5
    for snippet in snippets:
        exec(snippet, names)
    guard = names["guard"]
    assert guard.errors == []
    assert guard.decisions[-1].action == "stop"
    assert guard.restored == guard.best
    assert guard.best.step > 0
    assert (tmp_path / "runs" / "guard" / "report.html").is_file()


def test_every_field_of_the_guard_is_in_its_own_words() -> None:
    for name, field in GuardConfig.model_fields.items():
        if name not in ("evaluation", "stopping"):
            assert f"| `{name}` |" in TEXT
            assert " ".join((field.description or "").split()) in TEXT
