"""The model behind `tinker_server`: trained by PEFT and AdamW, sampled from token by token."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tinker.proto import tinker_public_pb2 as wire

ALPHA = 32


class Refusal(Exception):
    """A reply with a status other than 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass
class Training:
    """One model in training."""

    base: str
    model: Any
    rank: int
    optimizer: Any
    settings: dict[str, Any]


def adapted(base: Any, rank: int, seed: int) -> Any:
    config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(base, config)


def read_datum(datum: Any) -> tuple[list[int], Any, Any]:
    """Token ids, targets and weights, which must be of one length."""
    ids = np.concatenate([np.frombuffer(chunk.encoded_text.tokens, np.int32) for chunk in datum.model_input])
    targets = np.frombuffer(datum.loss_fn_inputs["target_tokens"].dense, np.int64)
    weights = np.frombuffer(datum.loss_fn_inputs["weights"].dense, np.float32)
    if not len(ids) == len(targets) == len(weights):
        raise Refusal(400, f"{len(ids)} tokens, {len(targets)} targets and {len(weights)} weights")
    return ids.tolist(), targets.copy(), weights.copy()


def losses(training: Training, data: list[tuple[list[int], Any, Any]], backward: bool) -> bytes:
    """Log-probabilities of the targets; the gradient of their weighted sum is added to what is there."""
    message = wire.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    longest = max(len(ids) for ids, _, _ in data)
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _, _ in data])
    logprobs, total = [], torch.zeros(())
    with torch.set_grad_enabled(backward):
        rows = torch.log_softmax(training.model(input_ids=padded).logits.float(), -1)
        for row, (ids, targets, weights) in zip(rows, data, strict=True):
            chosen = row[: len(ids)].gather(1, torch.tensor(targets)[:, None])[:, 0]
            total = total - (chosen * torch.tensor(weights)).sum()
            logprobs.append(chosen.detach().numpy())
    if backward:
        total.backward()
    record = message.loss_fn_outputs.add()
    record.num_datums = len(data)
    field_ = record.fields["logprobs"]
    field_.dtype = wire.DTYPE_FLOAT32
    field_.data = np.concatenate(logprobs).astype(np.float32).tobytes()
    field_.offsets = np.cumsum([0, *(4 * len(each) for each in logprobs)]).astype(np.int64).tobytes()
    message.metrics["loss:sum"] = float(total.detach())
    return message.SerializeToString()


@torch.no_grad()
def draw(model: Any, prompt: list[int], params: dict[str, Any], seed: int) -> tuple[list[int], bool]:
    """Tokens with the one that ended the answer, and whether one did."""
    rng = torch.Generator().manual_seed(seed)
    ids, drawn = list(prompt), []
    for _ in range(params["max_tokens"]):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float() / params["temperature"]
        token = int(torch.multinomial(torch.softmax(logits, -1), 1, generator=rng))
        drawn.append(token)
        if token in params["stop"]:
            return drawn, True
        ids.append(token)
    return drawn, False
