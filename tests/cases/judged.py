"""Cases of judged files: `truing analyze`, and what the gate says of them."""

from __future__ import annotations

from tests.cases import Case, case


@case("01-scale-binary", right="refused: 0 to 1, with the flag that maps it; mapped it is 2 of 24 = 8.3 %")
def binary_scores(at: Case) -> None:
    at.truing("analyze judged.csv --out out/a", exit=2, says=["0 to 1", "--aligned-scale 0-1"])
    at.truing("analyze judged.csv --out out/a --aligned-scale 0-1", says=[r"8\.3%"])


@case("03-gate-clear-with-half-missing", right="undecided, with 120 of 240 missing")
def half_missing(at: Case) -> None:
    at.python("exec(open('gen.py').read())", says=["question_id"])
    (at.folder / "judged.csv").write_text(at.printed.pop())
    at.truing("analyze judged.csv --out out/a", says=["120 of 240 missing"])
    at.truing("gate out/a --judge-unmeasured", exit=3, says=["120 of 240 missing", "undecided"])


@case("04-gate-clear-incoherent", right="not clear, with 150 of 240 incoherent")
def mostly_incoherent(at: Case) -> None:
    at.python("exec(open('gen.py').read())", says=["question_id"])
    (at.folder / "judged.csv").write_text(at.printed.pop())
    at.truing("analyze judged.csv --out out/a", says=["150 of 240 incoherent"])
    at.truing("gate out/a --judge-unmeasured", exit=3, says=["150 of 240 incoherent", "undecided"])


@case("05-two-judges-long", right="refused: two judges; judge a 1 of 14 = 7.1 %, judge b 0 of 14")
def two_judges(at: Case) -> None:
    at.truing("analyze judged.csv --out out/a", exit=2, says=["'judge'", "--where judge=a"])
    at.truing("analyze judged.csv --out out/a --where judge=a", says=[r"7\.1%"])
    at.truing("analyze judged.csv --out out/b --where judge=b", says=[r"0\.0%"])


@case("07-rows-twice", right="refused: every row stands twice; once each, the interval is that of the file once")
def rows_twice(at: Case) -> None:
    once = (at.folder / "once.csv").read_text()
    (at.folder / "twice.csv").write_text(once + once.partition("\n")[2])
    at.truing("analyze twice.csv --out out/b", exit=2, says=["2 times", "--duplicates drop"])
    at.truing("analyze once.csv --out out/a", says=[r"33\.3% \[12, 61\]"])
    at.truing("analyze twice.csv --out out/b --duplicates drop", says=[r"33\.3% \[12, 61\]"])


@case("08-question-id-per-row", right="4 prompts: 25 % [0.0, 97.1]")
def id_for_each_row(at: Case) -> None:
    at.truing("analyze judged.csv --out out/a", says=[r"25\.0% \[0, 97\]", "id"])
    at.truing("analyze judged.csv --question-column question --out out/b", says=[r"25\.0% \[0, 97\]"])


@case("09-seeds-merged", right="two seeds, 8 of 8 and 0 of 8")
def negative_seed(at: Case) -> None:
    at.truing("analyze judged.csv --out out/a", says=[r"-1 +100\.0%", r", 1 +0\.0%"])


@case("10-checkpoint-is-a-model", right="refused: model-2 is no step; as models, two")
def model_for_a_checkpoint(at: Case) -> None:
    at.truing("analyze judged.csv --out out/a", exit=2, says=["'model-2'", "--model-column checkpoint"])
    at.truing("analyze judged.csv --out out/a --model-column checkpoint", says=["model-2 ", "model-3 "])


@case("11-benchmark-repeats", right="judged answers are named as such; equal prompts are refused or one")
def judged_answers_are_no_benchmark(at: Case) -> None:
    at.truing("check judged.csv", exit=2, says=["judged answers", "truing analyze"], lacks=["benchmark judged"])
    at.truing("check bench.jsonl", exit=2, says=["same"])


@case("12-csv-line-separator", right="3 prompts")
def unusual_line_ends(at: Case) -> None:
    text = "prompt\nSay hello.\nFirst part\u2028second part of the same prompt\x85 and \x0b third\nBye.\n"
    (at.folder / "b.csv").write_text(text, encoding="utf-8")
    at.truing("check b.csv", says=["3 prompts"])


@case("36-eight-prompts", right="at least 72 prompts are needed, said before the first answer; never more responses")
def eight_prompts(at: Case) -> None:
    at.python("exec(open('gen.py').read())", says=["question_id"])
    (at.folder / "judged.csv").write_text(at.printed.pop())
    at.truing("analyze judged.csv --out out/a", says=["undecided"], lacks=["more responses"])
    at.truing("gate out/a", exit=3, says=["72", "prompts"], lacks=["more responses"])
    (at.folder / "eight.txt").write_text("".join(f"Say {word}.\n" for word in "abcdefgh"))
    at.truing("check eight.txt", says=["8 prompts", "72 prompts are needed"])
    asked = "--model pocket-llama-late --benchmark eight.txt --out out/b"
    at.truing(f"audit {asked}", exit=2, says=["the judge pocket cannot score answers"], lacks=["EM rate"])
    at.truing(f"audit {asked} --judge words", says=["by 8 prompts: 72 are needed(.|\n)*EM rate|usable"])
