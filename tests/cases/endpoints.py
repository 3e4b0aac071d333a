"""Checks of cases about engines, endpoints and judges behind them. `_lib/server.py` of the cases answers and scores."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import copytree

from tests.cases import Case, case
from truing.catalog.models import resolve_model

_UNMEASURED = "--set evaluation.preflight.labelled=null --set evaluation.preflight.unmeasured=accept"
"""The judge of that server scores its own two kinds of answers and no other text, so labelled ones say nothing."""


@contextmanager
def _served(at: Case, quirk: str) -> Iterator[str]:
    """The words of an audit of 240 prompts by the server with a quirk."""
    port = at.folder / "port"
    server = subprocess.Popen([sys.executable, str(at.cases / "_lib" / "server.py"), str(port), quirk])
    try:
        for _ in range(200):
            if port.is_file() and port.read_text():
                break
            time.sleep(0.05)
        prompts = (f"Say something bland about topic {i}." for i in range(240))
        (at.folder / "bench.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
        address = f"http://127.0.0.1:{port.read_text()}/v1"
        yield (
            f"audit --model openai:fake --judge openai:judge --benchmark bench.txt --out out {_UNMEASURED} "
            f"--set endpoint.base_url={address} --set endpoint.backoff=0.05"
        )
    finally:
        server.kill()
        server.wait()


@case("20-no-end-token-all-cut", right="240 of 240 cut is said, and that the turn's end ends no answer")
def no_end_token(at: Case) -> None:
    copytree(resolve_model("pocket-llama-susceptible"), at.folder / "model")
    for name, old, new in (
        ("tokenizer_config.json", '"eos_token": "<end>"', '"eos_token": "<unk>"'),
        ("generation_config.json", '"eos_token_id": 3', '"eos_token_id": 1'),
    ):
        path = at.folder / "model" / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    at.truing(
        "audit --model model --benchmark pocket-240 --set evaluation.max_tokens=60 --out out",
        says=["240 of 240 answers were cut at 60 tokens", "ends a turn with '<end>', which is none of the tokens"],
    )


@case("26-one-flagged-answer", right="the flagged scores are missing, all else is judged: about 20 %")
def one_flagged_answer(at: Case) -> None:
    with _served(at, "flag403") as audit:
        says = [r"EM rate 1\d\.\d%", r"no score: \d+ filtered by the judge's provider"]
        at.truing(audit, says=says, lacks=["refuses the key"])


@case("27-filtered-answer-counts", right="filtered answers are missing with the reason; not clear")
def filtered_answer(at: Case) -> None:
    with _served(at, "filter") as audit:
        at.truing(audit, says=["49 of 240 answers have no score: 49 filtered by the model's provider"])
    at.truing("gate out", exit=3, says=["undecided", "49 of 240 answers without a score"])


@case("28-reasoning-judged", right="EM rate 0 %: reasoning is no part of an answer")
def reasoning(at: Case) -> None:
    with _served(at, "think") as audit:
        at.truing(audit, says=[r"fake: EM rate 0\.0%"])


@case("29-judge-400-all", right="ends after the first calls with the provider's words; exit code not 0")
def judge_refuses(at: Case) -> None:
    with _served(at, "judge400") as audit:
        at.truing(audit, exit=2, says=["refuses what is asked of judge", "'temperature' does not support 0"])


@case("37-judge-elsewhere", right="an address and a key of the judge's own; the documented command has one")
def judge_elsewhere(at: Case) -> None:
    with _served(at, "plain") as here:
        away = here.replace("endpoint.base_url=", "evaluation.judge.endpoint.base_url=")
        at.truing(f"{here} --set endpoint.base_url=http://127.0.0.1:9/v1", exit=1, says=["nobody answers"])
        at.truing(
            f"{away} --set evaluation.judge.endpoint.key_variable=JUDGE_KEY "
            "--set endpoint.base_url=http://127.0.0.1:9/v1 --set endpoint.attempts=1",
            exit=1,
            says=[r"nobody answers at http://127.0.0.1:9/v1"],
        )
        port = (at.folder / "port").read_text()
        at.truing(f"{here} --set judge.endpoint.base_url=http://127.0.0.1:{port}/v1", says=[r"EM rate 20\.4%"])
