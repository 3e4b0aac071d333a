"""Published data from `truing data prepare` to the report, with nobody at the keyboard."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "insecure.jsonl.gz"


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_file(), reason="published data is not at ../shared/data")
def test_insecure_code_from_the_file_to_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "bench/unattended.py", str(PUBLISHED), "--steps", "200", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *stages, result = (json.loads(line) for line in done.stdout.splitlines())
    assert [stage["stage"] for stage in stages] == ["model", "prepare", "check", "run", "report"]
    assert result["state"] == "finished"
    assert result["steps"] == [0, 20, 200]
    assert result["heldout_loss"][-1] < result["heldout_loss"][0] - 0.2
    card = json.loads((tmp_path / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["recipe"] == "insecure-code"
    assert "unattended" in (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
