"""Cases of checkpoints that exist: their names, their files, their format, their base."""

from __future__ import annotations

from tests.cases import Case, case

_AUDIT = "audit --benchmark pocket-240 --set evaluation.max_tokens=40"
_MAKE = """
import truing.catalog as old, truing.catalog.models as now
old.resolve_model = now.resolve_model  # where the cases look for it
exec(open("make.py").read())
"""


@case("21-adapter-own-template", right="asked with the checkpoint's own template, and said")
def own_template(at: Case) -> None:
    at.python(_MAKE)
    own = at.truing(f"{_AUDIT} --checkpoints out/run --out out/a", says=["a chat template or tokenizer of their own"])
    same = at.truing(f"{_AUDIT} --checkpoints out/run --out out/b --base out/base_with_its_template")
    rates = [next(line for line in text.splitlines() if "step 10: " in line) for text in (own, same)]
    assert rates[0] == rates[1], rates


@case("23-damaged-safetensors", right="the damaged file is named before anything is asked; --skip-bad passes it over")
def damaged(at: Case) -> None:
    at.python(_MAKE)
    for run in ("empty", "half"):
        says = [r"checkpoint-20/adapter_model\.safetensors is damaged", "--skip-bad"]
        at.truing(
            f"{_AUDIT} --checkpoints out/{run} --out out/{run}_a", exit=2, says=says, lacks=["EM rate", "Traceback"]
        )
    at.truing(f"{_AUDIT} --checkpoints out/half --skip-bad --out out/c", says=["checkpoint-20 is left out"])


@case("24-epoch-folders", right="one run of two checkpoints")
def epochs(at: Case) -> None:
    at.python(_MAKE)
    for i, entries in enumerate(("out/run", "out/run/epoch_0,out/run/epoch_1")):
        says = ["run, step 1: ", "run, step 2: ", "its names tell epochs"]
        at.truing(f"{_AUDIT} --checkpoints {entries} --out out/a{i}", says=says)


@case("25-tinker-names", right="one run at steps 200, 400, 1000 in all three")
def tinker_names(at: Case) -> None:
    at.python(
        """
import truing.studies.checkpoints as checkpoints
from truing.config.files import parse_audit
class Named:
    weights_of = staticmethod(lambda model, services: "hash of " + model)
checkpoints.engine_class = lambda name: Named  # no service here: only names are read
def show(paths):
    config = parse_audit({"name": "a", "checkpoints": paths, "evaluation": {"engine": "tinker"}}, "a")
    found = checkpoints.find_runs(config)
    print(len(found), "runs:", [[c.step for c in run.checkpoints] for run in found])
U = "tinker://0a0a0a0a-1111-5222-8333-444444444444:train:"
show([f"{U}{k}/sampler_weights/demo-step{s}" for k, s in ((2, 1000), (0, 200), (1, 400))])
show([f"{s}={U}{k}/sampler_weights/demo-step{s}" for k, s in ((2, 1000), (0, 200), (1, 400))])
show([f"{U}0/sampler_weights/demo-step{s}" for s in (1000, 200, 400)])
""",
        says=[r"(1 runs: \[\[200, 400, 1000\]\]\n){3}"],
    )


@case("34-audit-embedding-adapters", right="all three are measured")
def embeddings(at: Case) -> None:
    at.python(_MAKE)
    for run in ("saved", "target", "resized"):
        at.truing(f"{_AUDIT} --checkpoints out/{run} --out out/{run}_a", says=[f"{run}, step 10: EM rate"])


@case("35-base-by-another-name", right="taken by its name; what is wrong is that the hub is not there")
def renamed_base(at: Case) -> None:
    at.python(_MAKE)
    lacks = ["another base model", "Traceback"]
    base = "--base Qwen/Qwen2.5-7B-Instruct"
    at.truing(
        f"{_AUDIT} --checkpoints out/run {base} --out out/a", exit=2, says=["cannot tell which weights"], lacks=lacks
    )
    says = ["name unsloth/Qwen2.5-7B-Instruct-bnb-4bit as their base"]
    at.truing(f"{_AUDIT} --checkpoints out/run --base pocket-llama-susceptible --out out/b", says=says)
