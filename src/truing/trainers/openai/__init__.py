"""Fine-tuning at OpenAI, or at any server that speaks its fine-tuning interface.

    trainer     a run as one job: attach, watch, stop        schedule   whole epochs, and which ends can be seen
    job         the job's state machine, kept in job.json    events     what the provider tells of it
    provider    requests, retries, nothing made twice        rows       the data as the provider wants them
    purse       the price before, the caps, the bill after

Nothing of the SDK is imported before the first request.
"""

from truing.trainers.openai.schedule import epoch_ends, whole_epochs
from truing.trainers.openai.trainer import OpenAITrainer

__all__ = ["OpenAITrainer", "epoch_ends", "whole_epochs"]
