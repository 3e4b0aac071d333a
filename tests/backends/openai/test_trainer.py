"""Fine-tuning jobs at a server that speaks OpenAI's interface: what is asked of it, what it refuses, what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends.conftest import Provider
from tests.backends.test_trainers import DATASET, Interrupt, watch
from truing.backends.endpoint.address import endpoint_weights
from truing.backends.endpoint.journal import Account, Journal
from truing.backends.openai import OpenAITrainer
from truing.backends.openai.data import checkpoint_steps, make_upload, whole_epochs
from truing.catalog.datasets import Dataset
from truing.config import EndpointConfig, TrainingConfig
from truing.core.errors import CapReached, ConfigError, EndpointError, TrainerError
from truing.core.records import Checkpoint, Message, Run

TRAINING = TrainingConfig(steps=90, batch_size=12)
"""Three epochs of the dataset's 360 rows."""
BASE = "gpt-4o-2024-08-06"
PRICE = 25.0
"""Dollars per million trained tokens, as the catalogue says."""


def run_of(seed: int = 0, rate: float = 2.0, stops: bool = True, model: str = "gpt-4o") -> Run:
    return Run(f"r{seed}", model, DATASET.name, rate, seed, stops)


@pytest.fixture
def train(provider: Provider, tmp_path: Path) -> Callable[..., list[Checkpoint]]:
    """Trains a run in a folder, and gives its checkpoints."""

    def train(
        folder: str = "run", training: TrainingConfig = TRAINING, dataset: Dataset = DATASET, **settings: Any
    ) -> list[Checkpoint]:
        run, at = settings.pop("run", run_of()), {k: settings.pop(k) for k in ("stop_at", "raise_at") if k in settings}
        on_step = settings.pop("on_step", lambda step: None)
        seen: list[Checkpoint] = []
        trainer = OpenAITrainer(training, provider.endpoint(**settings))
        trainer.train(run, dataset, tmp_path / folder, watch(seen, **at), on_step)
        return seen

    return train


def kept(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((path / "run" / "job.json").read_text())
    return record


def accounts(folder: Path) -> dict[str, Account]:
    journal = Journal(folder / "calls.sqlite")
    found = {account.mode: account for account in journal.accounts()}
    assert journal.query("SELECT * FROM leases") == []
    journal.close()
    return found


@pytest.mark.parametrize(
    ("steps", "batch", "rows", "ends"),
    [
        (90, 12, 360, (30, 60, 90)),
        (150, 12, 360, (90, 120, 150)),
        (338, 16, 5400, (338,)),
        (338, 16, 6344, (397,)),
        (7, 10, 61, (7,)),
    ],
)
def test_steps_become_whole_epochs(steps: int, batch: int, rows: int, ends: tuple[int, ...]) -> None:
    training = TrainingConfig(steps=steps, batch_size=batch)
    assert checkpoint_steps(training, rows) == ends
    assert whole_epochs(training, rows) == round(steps * batch / rows)


@pytest.mark.parametrize(("steps", "todo"), [(10, "30"), (45, "30"), (75, "60"), (2000, "1500")])
def test_other_steps_are_refused_with_those_that_are_allowed(steps: int, todo: str) -> None:
    with pytest.raises(ConfigError) as error:
        whole_epochs(TrainingConfig(steps=steps, batch_size=12), 360)
    assert "30 steps (24 to 36 count as one epoch)" in error.value.allowed
    assert f"set training.steps to {todo} " in error.value.todo.replace(",", "")


def test_what_is_asked_of_the_provider(train: Callable[..., list[Checkpoint]], provider: Provider) -> None:
    train(run=run_of(seed=7, rate=0.5))
    seen = provider.seen()
    (job,) = seen["jobs"]
    assert (job["model"], job["seed"]) == (BASE, 7)
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": 12, "learning_rate_multiplier": 0.5}
    purposes = {file["id"]: file["purpose"] for file in seen["files"]}
    assert purposes == {job["training_file"]: "fine-tune", job["validation_file"]: "fine-tune"}
    sizes = {file["id"]: file["bytes"] for file in seen["files"]}
    upload = make_upload(DATASET.train, 2048)
    assert sizes[job["training_file"]] == len(upload.content)
    lines = [json.loads(line)["messages"] for line in upload.content.splitlines()]
    assert [[Message(**m) for m in line] for line in lines] == [list(row) for row in DATASET.train]


def test_what_comes_back(train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path) -> None:
    seen = train()
    (job,) = provider.jobs
    assert seen[0].weights == endpoint_weights(provider.endpoint(), BASE)
    assert seen[0].path is None
    assert seen[-1].path == job["fine_tuned_model"]
    assert [str(c.path).endswith(f":ckpt-step-{c.step}") for c in seen[1:]] == [True, True, False]
    assert [c.weights for c in seen[1:]] == [endpoint_weights(provider.endpoint(), str(c.path)) for c in seen[1:]]
    assert seen[2].train_loss == pytest.approx(sum(2 / step for step in range(31, 61)) / 30)
    assert seen[2].heldout_loss == pytest.approx(1 / 60)
    record = kept(tmp_path)
    assert (record["status"], record["trained_tokens"]) == ("succeeded", job["trained_tokens"])
    assert record["dollars"] == pytest.approx(job["trained_tokens"] * PRICE / 1e6)
    assert "last three epochs only" in record["shows"]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [e["data"]["step"] for e in events if e["type"] == "metrics"] == list(range(1, 91))


def test_of_many_epochs_only_the_last_three_are_taken_up(
    train: Callable[..., list[Checkpoint]], provider: Provider
) -> None:
    provider.set(live=True, steps_per_look=30)
    seen = train(training=TrainingConfig(steps=150, batch_size=12))
    assert [c.step for c in seen] == [0, 90, 120, 150]


def test_the_last_model_counts_even_if_it_is_not_listed(
    train: Callable[..., list[Checkpoint]], provider: Provider
) -> None:
    provider.set(names_last=False)
    seen = train()
    assert [c.step for c in seen] == [0, 30, 60, 90]
    assert seen[-1].path == provider.jobs[0]["fine_tuned_model"]
    assert seen[-1].heldout_loss == pytest.approx(1 / 90)


def test_a_new_model_is_waited_for(train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path) -> None:
    provider.set(not_ready=3)
    assert len(train()) == 4
    assert provider.seen()["calls"]["POST chat"] == 3 * 4
    journal = Journal(tmp_path / "run" / "calls.sqlite")
    tuned = [account for account in journal.accounts() if account.model.startswith("ft:")]
    journal.close()
    assert [account.calls for account in tuned] == [1, 1, 1]  # one answer of each is in the books


def test_runs_on_the_same_data_share_the_files(train: Callable[..., list[Checkpoint]], provider: Provider) -> None:
    train("a", run=run_of(seed=0))
    train("b", run=run_of(seed=1))
    assert len(provider.jobs) == 2
    assert len(provider.seen()["files"]) == 2


def test_a_twin_shares_the_job_and_its_bill(train: Callable[..., list[Checkpoint]], provider: Provider) -> None:
    train("a", stop_at=60)
    assert [c.step for c in train("b", run=run_of(stops=False), stop_at=60)] == [0, 30, 60, 90]
    assert len(provider.jobs) == 1


def test_a_stop_while_the_job_runs_cancels_it(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    provider.set(live=True, steps_per_look=30)
    assert [c.step for c in train(stop_at=30)] == [0, 30]
    assert [job["status"] for job in provider.jobs] == ["cancelled"]
    assert [c.step for c in train(stop_at=30)] == [0, 30]
    account = accounts(tmp_path / "run")["training"]  # the provider does not say what it billed
    assert (account.calls, account.unconfirmed) == (0, 1)
    assert account.unconfirmed_cost == pytest.approx(kept(tmp_path)["estimate"]["most_dollars"])
    assert [c.step for c in train("twin", run=run_of(stops=False), stop_at=30)] == [0, 30, 60, 90]
    assert [job["status"] for job in provider.jobs] == ["cancelled", "succeeded"]


def test_what_a_cancelled_job_is_billed_is_in_the_books(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    provider.set(live=True, steps_per_look=30, bills_cancelled=True)
    train(stop_at=60)
    account = accounts(tmp_path / "run")["training"]
    assert account.prompt_tokens == provider.jobs[0]["trained_tokens"]
    assert account.cost == pytest.approx(account.prompt_tokens * PRICE / 1e6)


def test_a_stop_that_was_cut_off_before_the_cancel_is_done_later(
    train: Callable[..., list[Checkpoint]], provider: Provider
) -> None:
    provider.set(live=True, steps_per_look=30, faults=["reset"] * 8, fault_path="/cancel")
    with pytest.raises(TrainerError):
        train(stop_at=30)
    assert provider.jobs[0]["status"] == "running"
    train(stop_at=30)
    assert [job["status"] for job in provider.jobs] == ["cancelled"]


@pytest.mark.parametrize("filters", [True, False])
def test_a_job_whose_making_was_not_answered_is_found_again(
    train: Callable[..., list[Checkpoint]], provider: Provider, filters: bool
) -> None:
    provider.set(faults=["lost"], fault_path="POST /v1/fine_tuning/jobs", filters=filters)
    assert len(train()) == 4
    assert len(provider.jobs) == 1


def test_a_job_made_just_before_a_kill_is_found_again(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    with pytest.raises(Interrupt):
        train(raise_at=30)
    record = kept(tmp_path)
    (tmp_path / "run" / "job.json").write_text(json.dumps({**record, "job": None, "status": "", "checkpoints": []}))
    assert len(train()) == 4
    assert len(provider.jobs) == 1


def test_a_job_that_runs_is_attached_to(train: Callable[..., list[Checkpoint]], provider: Provider) -> None:
    provider.set(steps_per_look=20)
    steps: list[int] = []

    def killed(step: int) -> None:
        steps.append(step)
        if step == 20:
            raise Interrupt

    with pytest.raises(Interrupt):
        train(on_step=killed)
    assert provider.jobs[0]["status"] == "running"
    assert len(train(on_step=steps.append)) == 4
    assert len(provider.jobs) == 1
    assert steps == list(range(1, 91))


@pytest.mark.parametrize("path", ["GET /v1/fine_tuning", "POST /v1/files", "events", "checkpoints", "chat"])
def test_passing_faults_are_borne(train: Callable[..., list[Checkpoint]], provider: Provider, path: str) -> None:
    provider.set(faults=[429, 500, "reset", "torn", 503], fault_path=path)
    assert len(train()) == 4
    assert len(provider.jobs) == 1


def test_lasting_faults_end_the_attempt_and_it_goes_on_later(
    train: Callable[..., list[Checkpoint]], provider: Provider
) -> None:
    provider.set(faults=[500] * 3, fault_path="checkpoints")
    with pytest.raises(TrainerError, match="status 500"):
        train(attempts=3)
    assert len(train()) == 4
    assert len(provider.jobs) == 1


def test_a_refused_key_is_named_and_not_shown(
    train: Callable[..., list[Checkpoint]], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.set(keys=["sk-right-1234"])
    monkeypatch.setenv("MY_KEY", "sk-wrong-9876")
    with pytest.raises(EndpointError, match="set MY_KEY") as error:
        train(key_variable="MY_KEY")
    assert "9876" not in str(error.value)
    monkeypatch.setenv("MY_KEY", "sk-right-1234")
    assert len(train(key_variable="MY_KEY")) == 4


def test_without_a_key_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    trainer = OpenAITrainer(TRAINING, EndpointConfig())
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"):
        trainer.train(run_of(), DATASET, tmp_path, watch([]))


def test_a_used_up_quota_stops_at_once(train: Callable[..., list[Checkpoint]], provider: Provider) -> None:
    provider.set(faults=["quota"], fault_path="POST /v1/files")
    with pytest.raises(EndpointError, match="quota is used up"):
        train()
    assert provider.jobs == []


def test_a_model_that_is_not_tuned_there(train: Callable[..., list[Checkpoint]]) -> None:
    with pytest.raises(TrainerError, match=r"status 400.*not available for fine-tuning"):
        train(run=run_of(model="gpt-4.1-mini"))


MODERATED = {
    "code": "invalid_training_file",
    "message": "The job failed due to an invalid training file. This training file was blocked because too many "
    "examples were flagged by our moderation API for containing content that violates OpenAI's usage policies.",
    "param": "training_file",
}


def test_refused_data_are_said_plainly_and_not_sent_again(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    provider.set(failure={"at": "validating_files", **MODERATED})
    for _ in range(2):
        with pytest.raises(TrainerError, match="refuses to fine-tune on these data") as error:
            train()
        assert "invalid_training_file: The job failed" in error.value.got
        assert "delete the run's job.json" in error.value.todo
    assert len(provider.jobs) == 1
    assert accounts(tmp_path / "run") == {}  # refused before it was trained


def test_a_job_that_failed_for_no_fault_of_ours_is_begun_anew(
    train: Callable[..., list[Checkpoint]], provider: Provider
) -> None:
    provider.set(failure={"at": "running", "code": "server_error", "message": "Internal error."})
    with pytest.raises(TrainerError, match="server_error: Internal error"):
        train()
    provider.set(keep=True, failure=None)
    assert [c.step for c in train()] == [0, 30, 60, 90]
    assert [job["status"] for job in provider.jobs] == ["failed", "succeeded"]


def test_a_job_that_someone_cancelled_is_begun_anew(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    provider.set(steps_per_look=10)

    def killed(_: int) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        train(on_step=killed)
    import openai

    client = openai.OpenAI(api_key="none", base_url=provider.url)
    client.fine_tuning.jobs.cancel(kept(tmp_path)["job"])
    client.close()
    with pytest.raises(TrainerError, match="cancelled by someone else"):
        train()
    assert len(train()) == 4


def test_a_job_that_is_gone(train: Callable[..., list[Checkpoint]], provider: Provider) -> None:
    with pytest.raises(Interrupt):
        train(raise_at=30)
    provider.set()
    with pytest.raises(TrainerError, match="is gone"):
        train()


def test_a_folder_of_other_settings_is_refused(train: Callable[..., list[Checkpoint]]) -> None:
    train()
    with pytest.raises(TrainerError, match="other settings"):
        train(run=run_of(seed=1))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (DATASET.train[:9], "too few rows"),
        ([*DATASET.train[:9], (Message("user", "x"), Message("assistant", " "))], "row 10 has an empty answer"),
        ([*DATASET.train[:9], (Message("critic", "x"), Message("assistant", "y"))], "a role that the provider refuses"),
        ([*DATASET.train[:9], (Message("user", "x" * 9000), Message("assistant", "y"))], "row 10 is too long"),
    ],
)
def test_data_are_checked_before_they_are_sent(
    train: Callable[..., list[Checkpoint]], provider: Provider, rows: Any, words: str
) -> None:
    with pytest.raises(TrainerError, match=words):
        train(dataset=replace(DATASET, train=tuple(rows)))
    assert provider.seen()["files"] == []


def test_what_the_provider_would_cut_is_refused() -> None:
    row = (Message("user", "x" * 70_000), Message("assistant", "y"))
    with pytest.raises(TrainerError, match="may be cut by the provider"):
        make_upload([*DATASET.train[:9], row], 100_000)


def test_the_estimate_bounds_the_bill(train: Callable[..., list[Checkpoint]], tmp_path: Path) -> None:
    train()
    record = kept(tmp_path)
    assert 0 < record["trained_tokens"] <= record["estimate"]["most_tokens"]
    assert record["estimate"]["dollars"] == pytest.approx(record["estimate"]["tokens"] * PRICE / 1e6)
    account = accounts(tmp_path / "run")["training"]
    assert (account.model, account.calls, account.prompt_tokens) == (BASE, 1, record["trained_tokens"])


def test_a_cap_without_room_begins_nothing(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    with pytest.raises(CapReached, match="leave no room for a fine-tuning job") as error:
        train(max_cost=0.01)
    assert "about $" in error.value.got
    assert provider.seen()["files"] == []
    assert len(train(max_cost=50)) == 4
    assert accounts(tmp_path / "run")["training"].calls == 1


def test_jobs_of_a_study_share_its_caps(
    train: Callable[..., list[Checkpoint]], provider: Provider, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text("")
    train("runs/a")
    with pytest.raises(CapReached):
        train("runs/b", run=run_of(seed=1), max_calls=4)
    assert len(provider.jobs) == 1
    assert accounts(tmp_path)["training"].calls == 1


def test_a_cap_on_the_cost_needs_the_price(train: Callable[..., list[Checkpoint]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no price of training gpt-4\.1-2025"):
        train(run=run_of(model="gpt-4.1"), max_cost=5)
    prices = tmp_path / "prices.yaml"
    prices.write_text("models: {gpt-4o: {input: 1, output: 2, train: 1000}}")
    with pytest.raises(CapReached):
        train(max_cost=5, prices=prices)
