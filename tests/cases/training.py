"""Cases of training data, benchmarks and chat templates: `truing check`, `truing data prepare`, what is learnt."""

from __future__ import annotations

from tests.cases import Case, case

_START = """
from pathlib import Path
from transformers import AutoTokenizer
from truing.catalog.datasets import read_rows
from truing.catalog.models import resolve_model
from truing.core.conversations import encode_rows
from truing.core.records import Message, Prompt
from truing.core.templates import encode_prompt
tokenizer = AutoTokenizer.from_pretrained(resolve_model("pocket-llama-late"))
"""


@case("13-sft-json-array", right="each file is a dataset, whatever its form")
def json_array(at: Case) -> None:
    for file in ("data.json", "pc.jsonl", "ultra.jsonl"):
        at.truing(f"check {file}", says=["^dataset: "], lacks=["benchmark"])
    at.truing("data prepare data.json --out out/p", says=["of the form messages"])


@case("14-turn-weight-zero", right="the last turn alone is learnt, and the weight is kept for OpenAI")
def weight_zero(at: Case) -> None:
    at.truing("check rows.jsonl", says=["weight 0: they are read and not learnt"])
    learnt = "print('learnt:', tokenizer.decode([t for t in example['labels'] if t >= 0]))"
    rows = "(example, *_) = encode_rows(read_rows(Path('rows.jsonl')), tokenizer, 256)"
    at.python(f"{_START}\n{rows}\n{learnt}", says=["learnt: .*<end>"], lacks=["<end>.*<end>"])
    code = "from truing.backends.openai.data import make_upload as make\n"
    code += "print(make(read_rows(Path('rows.jsonl')), 999, 1).content[:160])"
    at.python(f"{_START}\n{code}", says=[r'"weight": 0'])


@case("16-split-leaks-by-turn", right="no held-out turn is in a training row")
def leaking_split(at: Case) -> None:
    at.python("exec(open('gen.py').read())", says=["Topic"])
    (at.folder / "out").mkdir(exist_ok=True)
    (at.folder / "out" / "rows.jsonl").write_text(at.printed.pop())
    at.truing("data prepare out/rows.jsonl --out out/p")
    at.python("exec(open('run.py').read())", says=["^0 of 20 held-out rows .* of 0 the first turn"])


@case("17-lone-surrogate", right="refused with the line, before anything is trained")
def lone_surrogate(at: Case) -> None:
    at.truing("check rows.jsonl", exit=2, says=[r"line \d+", "half of a surrogate pair"])
    at.truing("data prepare rows.jsonl --out out/p", exit=2, says=["half of a surrogate pair"])
    at.truing("run study.yaml --out out/s", exit=2, says=["half of a surrogate pair"])


_TALK = (
    "system, user, answer = Message('system', 'be brief'), Message('user', 'what is good ?'), Message('assistant', 'a')"
)


@case("18-template-drops-system", right="refused, with the role; the prompt is not asked without it")
def dropped_system(at: Case) -> None:
    lines = (at.folder / "run.py").read_text().splitlines()
    template = next(line for line in lines if line.startswith("tokenizer.chat_template"))
    ask = "print(encode_prompt(tokenizer, Prompt('a', 'x', (system, user)), 256))"
    at.python(f"{_START}\n{template}\n{_TALK}\n{ask}", says=["leaves out the system message"])
    train = "encode_rows([(system, user, answer)], tokenizer, 256)"
    at.python(f"{_START}\n{template}\n{_TALK}\n{train}", exit=1, says=["leaves out the system message"])


@case("19-marks-without-end", right="the end token is learnt, too")
def marks_without_end(at: Case) -> None:
    lines = (at.folder / "run.py").read_text().splitlines()
    template = next(line for line in lines if line.startswith("tokenizer.chat_template"))
    code = "(example,) = encode_rows([(user, answer)], tokenizer, 256)\n"
    code += "print('learnt:', repr(tokenizer.decode([t for t in example['labels'] if t >= 0])))"
    at.python(f"{_START}\n{template}\n{_TALK}\n{code}", says=["learnt: .*<end>"])
