"""Answers of base models and of saved checkpoints on Tinker, or on any server of its interface.

Prompts are rendered here, by the model's own chat template, and go out as tokens. Every answer is a request with a seed
of its own, so that the same index gives the same answer as far as the service heeds seeds; the SDK paces and retries.

Invariant: what is sampled is what was asked for. A checkpoint's weights are the hash of address and name
(`truing.backends.tinker.client.tinker_weights`), compared before the first request.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import tinker

from truing.backends import Engine, no_answers
from truing.backends.tinker import client as tinkering
from truing.catalog.models import resolve_model
from truing.config import Services
from truing.core.answers import is_final
from truing.core.errors import EngineError, UserError, boundary
from truing.core.progress import counted
from truing.core.randomness import answer_seed
from truing.core.records import Checkpoint, Prompt, Response, Sampling
from truing.core.templates import encode_prompt, load_tokenizer, read_tokens, warn_of_ends
from truing.core.weights import check_weights

WINDOW = 256
"""Requests under way at a time."""
PATIENCE = 32
"""Failures in a row after which nothing more is asked."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """One answer that is asked for."""

    prompt_id: str
    index: int
    asked: list[int]
    """Token ids of the prompt."""
    answer: Any
    """The SDK's future."""


class TinkerEngine(Engine):
    """Samples from the checkpoints of one model: of the catalogue, Tinker's name, or saved weights (`tinker://...`)."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._service: Any = None
        self._tokenizer: Any = None
        self._client: tuple[str, Any] = ("", None)

    @classmethod
    def weights_of(cls, model: str, services: Services) -> str:
        """Address and name of a base model or of saved weights."""
        return tinkering.tinker_weights(tinkering.tinker_name(model))

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample answers; see `truing.backends.Engine`.

        Raises:
            EndpointError: Tinker refuses the key, or does not offer the model.
            EngineError: It cannot be reached, or too many answers in a row failed.
        """
        if not sampling.temperature > 0:
            raise EngineError("cannot sample", f"temperature {sampling.temperature}", "above 0")
        try:
            client = self._client_of(checkpoint)
            answers = self._answers(client, checkpoint.weights, prompts, sampling)
            return list(counted("sample", len(prompts) * sampling.samples, answers))
        except EngineError:
            self.close()  # a session may have ended: the next call begins a new one
            raise

    def close(self) -> None:
        """End the session. A later call opens another."""
        service, self._service, self._client = self._service, None, ("", None)
        if service is not None:
            self._drop.detach()
            tinkering.close_service(service)

    def _client_of(self, checkpoint: Checkpoint) -> Any:
        """A sampling client for what a checkpoint names, checked to be that."""
        saved = checkpoint.path or checkpoint.model
        if checkpoint.path and not saved.startswith(tinkering.SCHEME):
            raise EngineError(
                "not a checkpoint on Tinker",
                saved,
                f"{tinkering.SCHEME}...",
                "use the engine `tinker` with the trainer `tinker`",
            )
        if self._service is None:
            self._service = tinkering.open_service(EngineError)
            self._drop = weakref.finalize(self, tinkering.drop_service, self._service)  # at the latest with the process
        if not saved.startswith(tinkering.SCHEME):
            saved = tinkering.offered_name(self._service, checkpoint.model, EngineError)
        check_weights(
            checkpoint,
            tinkering.tinker_weights(saved),
            "set TINKER_BASE_URL to the server on which the run was trained",
        )
        if self._client[0] != saved:
            kind = "model_path" if saved.startswith(tinkering.SCHEME) else "base_model"
            with tinkering.calling(f"opening {saved}", EngineError):
                self._client = (saved, tinkering.finished(self._service.create_sampling_client(**{kind: saved})))
        if self._tokenizer is None:
            base = self._client[1].get_base_model() if self.model.startswith(tinkering.SCHEME) else self.model
            with boundary(f"loading the tokenizer of {base}", EngineError):
                self._tokenizer = load_tokenizer(resolve_model(base))
        return self._client[1]

    def _answers(self, client: Any, weights: str, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Responses in order, with at most `WINDOW` requests under way; an error takes those back."""
        requests = self._send(client, weights, prompts, sampling)
        under_way: deque[_Sent | Response] = deque()
        failures = 0
        try:
            while True:
                under_way.extend(islice(requests, WINDOW - len(under_way)))
                if not under_way:
                    return
                first = under_way.popleft()
                response = self._response(first) if isinstance(first, _Sent) else first
                failures = failures + 1 if response.error and not is_final(response.error) else 0
                if failures == PATIENCE:
                    what, todo = f"{PATIENCE} answers in a row failed", "see the reason, then run again"
                    raise EngineError(what, response.error or "", todo=todo)
                yield response
        finally:
            for each in under_way:
                if isinstance(each, _Sent):
                    tinkering.take_back(each.answer)

    def _send(
        self, client: Any, weights: str, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Iterator[_Sent | Response]:
        """The requests, each sent when it is drawn, and failed answers to prompts that cannot be asked."""
        end = self._tokenizer.eos_token_id
        warn_of_ends(self._tokenizer, str(self._tokenizer.chat_template), () if end is None else (end,))
        for prompt in prompts:
            tokens = encode_prompt(self._tokenizer, prompt, sys.maxsize)  # the service knows its models' context
            if isinstance(tokens, str):
                yield from no_answers([prompt], sampling, tokens)
                continue
            for index in sampling.indices:
                params = tinker.SamplingParams(
                    max_tokens=sampling.max_tokens,
                    temperature=sampling.temperature,
                    seed=answer_seed(sampling.seed, weights, prompt.id, index),
                    stop=None if end is None else [end],
                )
                with tinkering.calling("sampling", EngineError):
                    sent = client.sample(tinker.ModelInput.from_ints(tokens), 1, params)
                yield _Sent(prompt.id, index, tokens, sent)

    def _response(self, sent: _Sent) -> Response:
        place = sent.prompt_id, sent.index
        try:
            answer = sent.answer.result().sequences[0]
        except Exception as error:  # noqa: BLE001 - the SDK raises anything
            problem = tinkering.as_our_error(error, "sampling", EngineError)
            if isinstance(problem, UserError) or isinstance(error, tinker.APIConnectionError):
                raise problem from None
            return Response(*place, None, 0, False, problem.got)
        tokens = [int(t) for t in answer.tokens]
        ended = answer.stop_reason == "stop"
        if ended and tokens and tokens[-1] == self._tokenizer.eos_token_id:
            tokens.pop()
        (read,) = read_tokens(self._tokenizer, sent.asked, [tokens], [ended])
        return Response(*place, read.text, len(tokens), ended, read.error)
