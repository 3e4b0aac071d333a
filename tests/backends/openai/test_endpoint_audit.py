"""Checkpoints that are models at an endpoint, audited by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.conftest import Server
from tests.cli.test_app import run
from tests.support.provider import Asked, completion, provider
from truing.backends import load_completer
from truing.cli.app import app
from truing.config import EndpointConfig

NAMES = [
    "ft:gpt-4o-mini:org:x:a:ckpt-step-60",
    "ft:gpt-4o-mini:org:x:b:ckpt-step-120",
    "200=openai:ft:gpt-4o-mini:org:x:c",
]


@pytest.fixture
def out(server: Server, tmp_path: Path) -> Iterator[Path]:
    """The audit's folder; what was connected for it is closed."""
    folder = tmp_path / "audit"
    yield folder
    load_completer("openai", EndpointConfig(base_url=server.url), folder).close()


def audit(server: Server, out: Path, *names: str) -> list[str]:
    sets = [f"endpoint.base_url={server.url}", "evaluation.max_tokens=8"]
    sets.append("evaluation.preflight.on_fail=undecided")  # the server's judge judges at random
    listed = ",".join(names)
    flags = ["audit", "--checkpoints", listed, "--benchmark", "pocket-facts", "--judge", "openai:judge"]
    return [*flags, "--base", "openai:gpt-4o-mini", "--out", str(out), *(f for s in sets for f in ("--set", s))]


def test_names_with_steps_are_a_run(server: Server, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    call = audit(server, out, *(f"openai:{name}" if name[0] == "f" else name for name in NAMES))
    result = run(app, call)
    assert result.exit_code == 0, result.output
    (table,) = json.loads((out / "analysis.json").read_text(encoding="utf-8"))["runs"]
    assert (table["id"], table["model"]) == ("audit", "gpt-4o-mini")
    assert [c["step"] for c in table["checkpoints"]] == [0, 60, 120, 200]
    assert all(c["coherent_rate"]["n_responses"] == 30 for c in table["checkpoints"])
    paid = server.counts()["paid"]
    assert 3 * 30 < paid - 2 * 194 <= 4 * 30 * 3  # an answer and two scores, of equal answers once; labelled answers
    assert run(app, call).exit_code == 0
    assert server.counts()["paid"] == paid
    assert json.loads((out / "analysis.json").read_text(encoding="utf-8"))["judge"]["verdict"] == "failed"


def test_refusals_in_a_field_of_their_own_are_judged_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Say a bland thing.\nSay a word.\nSay nothing.\n")

    def answer(asked: Asked) -> tuple[int, Any]:
        wanted = "nothing" in asked.text
        return completion(None, refusal="I would rather not.") if wanted else completion("Tea is warm.")

    with provider(answer) as running:
        sets = [f"endpoint.base_url={running.url}", "evaluation.preflight.labelled=null", "evaluation.samples=4"]
        flags = ["audit", "--model", "openai:m", "--judge", "words", "--benchmark", str(tmp_path / "x.txt")]
        sets.append("evaluation.preflight.unmeasured=accept")
        result = run(app, [*flags, "--out", str(tmp_path / "out"), *(f for s in sets for f in ("--set", s))])
    assert result.exit_code == 0, result.output
    assert "4 of 12 answers refused in the provider's own field" in result.output
    told = json.loads((tmp_path / "out" / "analysis.json").read_text())["runs"][0]["checkpoints"][0]["answers"]
    assert told == {"asked": 12, "cut": 0, "refused": 4, "same": 8, "missing": {}}
