"""The examples in docs/plugins.md run as they stand."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_snippets import blocks
from tests.support.sources import broad
from truing.config import StoppingConfig
from truing.core.records import Action
from truing.stats.rates import Counts

TEXT = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("plugins")
    python = [code for language, code in BLOCKS if language == "python"]
    (found / "mine.py").write_text("".join(code for code in python if code.startswith("# mine.py")))
    (found / "try.py").write_text("".join(code for code in python if not code.startswith("# mine.py")))
    (found / "bin").mkdir()
    (found / "bin" / "truing_script.py").write_text(
        'from truing.cli import main\n\nif __name__ == "__main__":\n    main()\n'
    )
    (found / "study.yaml").write_text(next(code for language, code in BLOCKS if language == "yaml"))
    return found


def run(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_study_of_six_own_parts_runs(folder: Path) -> None:
    output = run(folder, "bin/truing_script.py", "run", "study.yaml", "--out", "runs/mine")  # as a console script
    assert "stop" in output
    analysis = json.loads((folder / "runs" / "mine" / "analysis.json").read_text())
    (stopped,) = analysis["runs"]
    assert [c["step"] for c in stopped["checkpoints"]] == [0, 10, 20, 40]
    assert stopped["stopped_at"] == 40
    assert "mean number" in json.dumps(stopped)
    assert stopped["dataset"] == "mine:greetings"
    assert (stopped["checkpoints"][-1]["task_score"]["n_prompts"], stopped["convergence_step"]) == (2, 40)


def test_the_judge_is_called_as_in_a_study(folder: Path) -> None:
    run(folder, "try.py")


def test_every_part_that_the_page_names_is_there() -> None:
    from truing.core.plugins import load_object

    names = re.findall(r"\| `(truing\.[\w.]+)\.(\w+)` \|", TEXT)
    assert len(names) == 6
    for module, name in names:
        assert load_object("part", f"{module}:{name}", {}).__abstractmethods__


@pytest.mark.parametrize(("page", "name"), [("plugins.md", "StrictRule"), ("study.md", "PlainThreshold")])
def test_the_rules_of_the_pages_are_undecided_where_nothing_could_be_judged(page: str, name: str) -> None:
    class Answers:
        def __init__(self, counts: Counts) -> None:
            self.every_prompt = lambda: counts

    names: dict[str, Any] = {"Action": Action}
    (code,) = (block for block in blocks(Path(__file__).parents[2] / "docs" / page, "python") if name in block)
    exec(code, names)
    rule = names[name](StoppingConfig())
    unknown, clean, bad = (rule.decide(10, None, Answers(c)) for c in (broad(0, missing=480), broad(0), broad(100)))
    assert [each.action for each in (unknown, clean, bad)] == [Action.UNDECIDED, Action.CONTINUE, Action.STOP]
    assert math.isnan(unknown.em_rate.value)
    assert "not known" in unknown.reason
