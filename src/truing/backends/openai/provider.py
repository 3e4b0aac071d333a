"""Requests to the fine-tuning interface, through the `openai` SDK: retries, and nothing that is paid for made twice.

A job carries its key as metadata. Before each attempt at making one, the jobs are searched for that key: a job whose
making was answered by nothing (a cut line, a kill) is found again. The SDK's own retries are off, for they would make
it twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from truing.backends.endpoint.address import Access, max_tokens_field, require_extra
from truing.backends.endpoint.faults import Trouble, read_fault
from truing.backends.endpoint.pacing import backoff
from truing.backends.openai.rows import Upload
from truing.config import EndpointConfig
from truing.core.errors import EndpointError, TrainerError

__all__ = ["GONE", "OVER", "Provider"]

T = TypeVar("T")

OVER = ("succeeded", "failed", "cancelled")
"""The states of a job that last."""
GONE = ("failed", "cancelled")
"""Those of a job that is of no use any more."""
_MARK = "truing"
_LOOKS = 20
"""Times that a new model is asked whether it is loaded, `poll` seconds apart."""
_LONGEST = 3600.0
"""Seconds to wait for an upload."""


class Provider:
    """One client of one endpoint.

    Args:
        config: Where, how long to wait, how often to try.

    Raises:
        MissingExtraError: `openai` is not installed.
        EndpointError: No key.
    """

    def __init__(self, config: EndpointConfig) -> None:
        require_extra()
        import openai

        self._openai, self._config, self.access = openai, config, Access.of(config)
        self._client = openai.OpenAI(
            api_key=self.access.key or "none",
            base_url=self.access.address,
            max_retries=0,
            timeout=config.timeout,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def upload(self, upload: Upload) -> str:
        """The id of a file of this name and size: found, or uploaded."""
        files = self._call(lambda: list(self._client.files.list(purpose="fine-tune")))
        for file in files:
            if (file.filename, file.bytes, file.status == "error") == (upload.name, len(upload.content), False):
                return str(file.id)
        made = self._call(
            lambda: self._client.files.create(file=(upload.name, upload.content), purpose="fine-tune", timeout=_LONGEST)
        )
        return str(made.id)

    def make(self, key: str, order: Mapping[str, Any]) -> Any:
        """The job of a key: found, unless it failed or was cancelled, or made.

        Args:
            key: What names the job; it travels as metadata.
            order: What the interface wants besides.

        Raises:
            TrainerError: The provider refuses the order.
            EndpointError: It refuses the key, the quota or the model.
        """

        def attempt() -> Any:
            return self._find(key) or self._client.fine_tuning.jobs.create(**order, metadata={_MARK: key})

        return self._call(attempt, "the provider refuses the fine-tuning job")

    def find(self, key: str) -> Any | None:
        """The job of a key, unless it failed or was cancelled; None if there is none."""
        return self._call(lambda: self._find(key))

    def _find(self, key: str) -> Any | None:
        jobs = self._client.fine_tuning.jobs.list(limit=100, metadata={_MARK: key})
        ours = (job for job in jobs if (job.metadata or {}).get(_MARK) == key)  # a server may not filter
        return next((job for job in ours if job.status not in GONE), None)

    def look(self, job_id: str) -> Any:
        """The job as it is now.

        Raises:
            TrainerError: There is no such job any more.
        """
        try:
            return self._call(lambda: self._client.fine_tuning.jobs.retrieve(job_id))
        except EndpointError as error:
            if "status 404" not in error.got:
                raise
            raise TrainerError(
                f"the fine-tuning job {job_id} is gone", error.got, todo="delete the run's job.json to begin a new job"
            ) from error

    def events(self, job_id: str, known: Callable[[str], bool]) -> list[Any]:
        """The events of a job that are not known yet, oldest first."""

        def fetch() -> list[Any]:
            new = []
            for event in self._client.fine_tuning.jobs.list_events(job_id, limit=100):  # newest first
                if known(event.id):
                    break
                new.append(event)
            return new[::-1]

        return self._call(fetch)

    def checkpoints(self, job_id: str) -> list[Any]:
        """The checkpoints of a job, by step."""
        found = self._call(lambda: list(self._client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)))
        return sorted(found, key=lambda checkpoint: checkpoint.step_number)

    def cancel(self, job_id: str) -> Any:
        """Cancel a job; one that is over stays as it is."""
        try:
            return self._call(lambda: self._client.fine_tuning.jobs.cancel(job_id))
        except TrainerError:
            job = self.look(job_id)
            if job.status not in OVER:
                raise
            return job

    def wait_until_ready(self, model: str) -> Any:
        """Ask a new model for one token until it answers: it may take minutes to be loaded.

        Returns:
            The answer, for the books.

        Raises:
            TrainerError: It is not there after 20 looks.
        """
        short: dict[str, Any] = {max_tokens_field(self._config, self.access.address): 1}
        for _ in range(_LOOKS):
            try:
                return self._call(
                    lambda: self._client.chat.completions.create(
                        model=model, messages=[{"role": "user", "content": "Hello"}], **short
                    )
                )
            except EndpointError as error:
                if "status 404" not in error.got:
                    raise
                last = error
            time.sleep(self._config.poll)
        raise TrainerError(
            f"the fine-tuned model {model} does not answer", last.got, todo="run the same command again: it goes on"
        ) from last

    def _call(self, call: Callable[[], T], what: str = "the fine-tuning interface failed") -> T:
        """Try a request, as often as it may help."""
        openai = self._openai
        for number in range(self._config.attempts):
            try:
                return call()
            except (openai.APIStatusError, openai.APIConnectionError) as error:
                fault = read_fault(error, self.access)
            except (openai.APIError, ValueError) as error:  # a body that is not what the protocol says
                fault = Trouble(f"a damaged reply: {type(error).__name__}")
            if not isinstance(fault, Trouble):
                raise fault
            if not fault.again or number + 1 == self._config.attempts:
                todo = "run the same command again: it goes on" if fault.again else "mend what it names"
                raise TrainerError(what, fault.reason, todo=todo)
            time.sleep(backoff(number, self._config.backoff) if fault.wait is None else fault.wait)
        raise AssertionError("unreachable")  # the last attempt returns or raises
