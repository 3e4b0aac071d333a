"""Checkpoints that are models at an endpoint, audited by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.conftest import Server
from tests.cli.test_app import run
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
