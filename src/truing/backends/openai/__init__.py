"""Models at OpenAI, or behind any server that speaks its interfaces: answers, and fine-tuning jobs.

    engine      answers of a checkpoint, as every engine gives them
    trainer     a run as one job: attach, watch, stop
    job         the job's state machine, kept in job.json; its price before, its place under the caps, its bill after
    data        rows, epochs and checkpoints as the provider has them

Calls, journal, caps and prices are in `truing.backends.endpoint`. Nothing of the SDK is imported before it is used.
"""

from truing.backends.endpoint.address import endpoint_weights
from truing.backends.endpoint.completer import OpenAICompleter
from truing.backends.openai.engine import OpenAIEngine
from truing.backends.openai.trainer import OpenAITrainer

__all__ = [
    "OpenAICompleter",
    "OpenAIEngine",
    "OpenAITrainer",
    "endpoint_weights",
]
