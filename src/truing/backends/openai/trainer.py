"""A run as one fine-tuning job at the provider.

What can be seen is what the provider shows: a checkpoint at the end of each of the last three epochs, as OpenAI
documents it only once the job has succeeded. So a decision to stop saves no training there; it saves judging, and names
the checkpoint to keep. Where checkpoints are shown while the job runs, a stop cancels the job. A lower learning-rate
multiplier is the surrogate for stopping early.

The run's learning rate is the multiplier. Rank, alpha, schedule, warm-up, weight decay and the steps of checkpoints are
the provider's own business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from truing.backends import CALLS, OnCheckpoint, Trainer, stopping
from truing.backends.endpoint.address import endpoint_address, endpoint_model, endpoint_weights
from truing.backends.endpoint.completer import OpenAICompleter
from truing.backends.openai.data import is_kept, make_upload, whole_epochs
from truing.backends.openai.job import Job, Record, Seen
from truing.catalog.datasets import Dataset
from truing.config import EndpointConfig, Services, TrainingConfig
from truing.core.files import content_key
from truing.core.records import Checkpoint, Run


class OpenAITrainer(Trainer):
    """Makes checkpoints by fine-tuning jobs. See `truing.backends.Trainer` for the contract.

    Args:
        training: Steps and batch size, from which the epochs follow, and the longest conversation.
        endpoint: Where, the caps, how often to look; None: OpenAI's own, without caps.
    """

    def __init__(self, training: TrainingConfig, endpoint: EndpointConfig | None = None) -> None:
        self.training, self.endpoint = training, endpoint or EndpointConfig()

    @classmethod
    def build(cls, training: TrainingConfig, services: Services) -> OpenAITrainer:
        """With the endpoint of the study."""
        return cls(training, services.endpoint)

    def train(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train a run; see `truing.backends.Trainer.train`.

        A run that is called again attaches to its job. Runs of equal model, data, settings and seed share one.

        Raises:
            TrainerError: The provider refuses the data or the job, or the job failed.
            CapReached: The study's caps leave no room for the job.
            ConfigError: The steps are not whole epochs.
            EndpointError: The endpoint refuses the key, the quota or the model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        rows, longest = len(dataset.train), self.training.max_length
        train = make_upload(dataset.train, longest)
        held = dataset.heldout if self.training.heldout_rows else ()
        heldout = make_upload(held, longest, fewest=1) if held else None
        settings = {
            "n_epochs": whole_epochs(self.training, rows),
            "batch_size": self.training.batch_size,
            "learning_rate_multiplier": run.learning_rate,
        }
        model, names = endpoint_model(run.model), [train.name, heldout.name if heldout else None]
        key = content_key("fine-tuning", endpoint_address(self.endpoint), model, names, settings, run.seed)

        stops = stopping(run, on_checkpoint)
        study = folder.parent.parent  # a run's folder is OUT/runs/RUN; one elsewhere has a journal of its own
        journal = (study if (study / "study.yaml").is_file() else folder) / CALLS
        with OpenAICompleter(self.endpoint, journal) as completer:
            job = Job(Record(key, model, run.seed, settings), train, heldout, folder, completer)
            base = Checkpoint(run.id, run.model, 0, endpoint_weights(self.endpoint, model))
            if stops(base) or any(stops(self._checkpoint(run, seen)) for seen in job.record.checkpoints):
                job.cancel()
                return
            if job.record.complete:
                return
            job.start()
            found = job.watch(on_step, lambda step: is_kept(step, self.training, rows))
            if any(stops(self._checkpoint(run, seen)) for seen in found):
                job.cancel()

    def _checkpoint(self, run: Run, seen: Seen) -> Checkpoint:
        return Checkpoint(
            run_id=run.id,
            model=run.model,
            step=seen.step,
            weights=endpoint_weights(self.endpoint, seen.model),
            path=seen.model,
            train_loss=math.nan if seen.train_loss is None else seen.train_loss,
            heldout_loss=math.nan if seen.heldout_loss is None else seen.heldout_loss,
        )
