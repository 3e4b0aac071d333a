"""OpenAI's Batch API: half the price, up to a day, and a restart in between loses nothing.

    requests -> pieces (files of lines, beside the journal) -> upload -> batch -> poll -> results into the journal

Each step of a piece is in the journal before the next one: a piece is written down before its file is uploaded, and a
batch carries the piece's name as metadata, so that one that was made just before a kill is found again and not made
twice. Lines that failed go into a further piece, at most `attempts` times. All that a piece may cost is leased under
the caps until its results are in.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from truing.backends.endpoint.address import max_tokens_field
from truing.backends.endpoint.attempts import attempt
from truing.backends.endpoint.budget import Budget
from truing.backends.endpoint.faults import Trouble, scrub
from truing.backends.endpoint.journal import Journal, Paid, set_lease, write_paid
from truing.backends.endpoint.pacing import backoff
from truing.backends.endpoint.pricing import Prices
from truing.backends.endpoint.transport import Transport
from truing.backends.endpoint.wire import (
    DamagedReply,
    call_key,
    dump_result,
    encode,
    load_result,
    most_tokens,
    parse_reply,
    refusal,
)
from truing.config import EndpointConfig
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import CapReached, EngineError, StoreError
from truing.core.files import replacing

__all__ = ["Batches"]

T = TypeVar("T")

MAX_LINES = 20_000
MAX_BYTES = 50_000_000
"""A piece's bounds, for memory; the interface allows 50,000 lines and 200 MB."""
_LONGEST = 3600.0
"""Seconds to wait for one upload or download."""
_OVER = ("completed", "failed", "expired", "cancelled")


@dataclass
class _Piece:
    """Lines that are being gathered for one model."""

    model: str
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    most: float = 0.0
    """The most that one of its calls can cost."""


class Batches:
    """The batches of one sequence of requests, and those that earlier processes left.

    Args:
        config: How.
        transport: Where.
        journal: What is finished, and which batches there are.
        budget: What may be spent.
        prices: What it costs.
    """

    def __init__(
        self, config: EndpointConfig, transport: Transport, journal: Journal, budget: Budget, prices: Prices
    ) -> None:
        self._config, self._transport, self._journal = config, transport, journal
        self._budget, self._prices = budget, prices
        self._field = max_tokens_field(config, transport.access.address)
        self._keys: list[bytes] = []
        self._seen: set[bytes] = set()
        self._gathered: dict[str, _Piece] = {}
        self._errors: dict[bytes, str] = {}
        self._tries: dict[bytes, int] = {}
        self._stopped: CapReached | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._temporary = tempfile.TemporaryDirectory() if journal.path is None else None
        self._folder = Path(self._temporary.name) if self._temporary else journal.path.with_name("batches")  # type: ignore[union-attr]

    async def add(self, requests: Iterable[ChatRequest]) -> None:
        """Collect what earlier batches have, then send what is owed."""
        for (piece,) in self._journal.query(
            "SELECT piece FROM batches WHERE done = 0 AND endpoint = ? ORDER BY piece", [self._transport.access.address]
        ):
            self._start(piece)
        await self._settle()
        chunk: list[tuple[bytes, ChatRequest, bytes]] = []
        for request in requests:
            content = encode(request, self._field)
            chunk.append((call_key(self._transport.identity, content, request.sample), request, content))
            if len(chunk) >= 500:
                self._owe(chunk)
                chunk = []
        self._owe(chunk)

    async def finish(self) -> None:
        """Send what is gathered and wait until every batch is over.

        Raises:
            EngineError: The endpoint refuses the batches.
        """
        while True:
            for model in list(self._gathered):
                self._send(model)
            if not self._under_way:
                return
            await self._settle()

    def results(self) -> Iterator[ChatResult]:
        """One result per request, in order.

        Raises:
            CapReached: A cap left no room for some; all that is finished comes first, up to the first that is not.
        """
        for start in range(0, len(self._keys), 500):
            some = self._keys[start : start + 500]
            found = self._journal.find(some)
            for key in some:
                if key in found:
                    yield load_result(found[key])
                elif key in self._errors:
                    yield ChatResult(None, error=self._errors[key])
                elif self._stopped is not None:
                    raise self._stopped
                else:
                    yield ChatResult(None, error="the batch gave no line for this request")

    def close(self) -> None:
        """Delete the files of a journal that is kept in memory."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _owe(self, chunk: list[tuple[bytes, ChatRequest, bytes]]) -> None:
        found = self._journal.find([key for key, _, _ in chunk])
        for key, request, content in chunk:
            self._keys.append(key)
            if key in found or key in self._seen:
                continue
            self._seen.add(key)
            if (reason := refusal(request, self._config.prefill)) is not None:
                self._errors[key] = reason
            else:
                most = self._prices.cost(request.model, most_tokens(request), batch=True) or 0.0
                self._gather(request.model, _line(key, content), most)

    def _gather(self, model: str, line: bytes, most: float) -> None:
        piece = self._gathered.setdefault(model, _Piece(model))
        piece.lines.append(line)
        piece.size, piece.most = piece.size + len(line), max(piece.most, most)
        if len(piece.lines) >= MAX_LINES or piece.size >= MAX_BYTES:
            self._send(model)

    def _send(self, model: str) -> None:
        """Write a piece down, as much of it as the caps leave room for, and start it."""
        gathered = self._gathered.pop(model)
        if self._stopped is not None:
            return
        name = f"{secrets.token_hex(8)}"
        lines = gathered.lines
        with self._journal.transaction() as db:
            if self._budget.capped:
                lines = lines[: self._budget.reserve(db, f"batch-{name}", len(lines), gathered.most)]
            if lines:
                with replacing(self._folder / f"{name}.jsonl") as temporary:
                    temporary.write_bytes(b"".join(lines))
                db.execute(
                    "INSERT INTO batches (piece, endpoint, model) VALUES (?, ?, ?)",
                    (name, self._transport.access.address, model),
                )
        if len(lines) < len(gathered.lines):
            self._stopped = self._budget.reached()
        if lines:
            self._start(name)

    def _start(self, piece: str) -> None:
        task = asyncio.get_running_loop().create_task(self._see_through(piece))
        self._under_way.add(task)

    async def _settle(self) -> None:
        """Wait for what is under way; the first failure is raised when all are over."""
        done = await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _see_through(self, piece: str) -> None:
        """Bring a piece from wherever it stands to its end; one process at a time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / f"{piece}.lock", timeout=0)
        while True:
            try:
                lock.acquire()
                break
            except TimeoutError:  # another process is at it
                await asyncio.sleep(self._config.poll)
        try:
            rows = self._journal.query("SELECT model, file_id, batch_id, done FROM batches WHERE piece = ?", [piece])
            model, file_id, batch_id, done = rows[0]
            while not done:
                batch_id = batch_id or await self._make(piece, file_id)
                batch = await self._wait(batch_id)
                if not self._must_wait(batch):
                    await self._collect(piece, model, batch)
                    break
                self._note("UPDATE batches SET batch_id = NULL WHERE piece = ?", piece)
                batch_id, file_id = None, batch.input_file_id
                await asyncio.sleep(self._config.poll)
        finally:
            lock.release()

    def _must_wait(self, batch: Any) -> bool:
        """Whether a batch was refused only because too many tokens are in other batches of ours."""
        codes = {error.code for error in ((batch.errors and batch.errors.data) or [])}
        others = sum(not task.done() for task in self._under_way) > 1
        return batch.status == "failed" and "token_limit_exceeded" in codes and others

    async def _make(self, piece: str, file_id: str | None) -> str:
        """The batch of a piece: found again if it was made just before a kill, else made."""
        client = self._transport.client
        if file_id is None:
            path = self._folder / f"{piece}.jsonl"
            if not path.is_file():
                raise StoreError(f"the batch file {path} is gone", todo=f"delete {self._journal.path} or restore it")
            file = await self._call(lambda: client.files.create(file=path, purpose="batch"))
            file_id = file.id
            self._note("UPDATE batches SET file_id = ? WHERE piece = ?", file_id, piece)
        elif (found := await self._call(lambda: _find(client, piece))) is not None:
            self._note("UPDATE batches SET batch_id = ? WHERE piece = ?", found, piece)
            return found
        batch = await self._call(
            lambda: client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"truing": piece},
            )
        )
        self._note("UPDATE batches SET batch_id = ? WHERE piece = ?", batch.id, piece)
        return str(batch.id)

    async def _wait(self, batch_id: str) -> Any:
        while True:
            batch = await self._call(lambda: self._transport.client.batches.retrieve(batch_id))
            if batch.status in _OVER:
                return batch
            await asyncio.sleep(self._config.poll)

    async def _collect(self, piece: str, model: str, batch: Any) -> None:
        """Write down what a batch brought, and gather again what failed."""
        sent = {line["custom_id"]: line["body"] for line in _lines((self._folder / f"{piece}.jsonl").read_bytes())}
        paid, failed = [], dict.fromkeys(sent, _ending(batch))
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            data = await self._call(partial(self._transport.client.files.content, file_id))
            for line in _lines(data.content):
                name = line.get("custom_id")
                outcome = self._read(line, model, sent.get(name)) if name in sent else "a line nobody asked for"
                if isinstance(outcome, Paid):
                    paid.append(outcome)
                    failed.pop(name, None)
                elif name in failed:
                    failed[name] = outcome
        if not paid and batch.status == "failed":
            self._end(piece, [])
            raise EngineError(f"the endpoint refuses batch {batch.id}", _ending(batch), todo="mend what it names")
        self._end(piece, paid)
        for name, reason in failed.items():
            self._again(model, bytes.fromhex(name), sent[name], reason)

    def _end(self, piece: str, paid: list[Paid]) -> None:
        with self._journal.transaction() as db:
            write_paid(db, paid, "batch", only_new=True)
            set_lease(db, f"batch-{piece}", 0, 0.0)
            db.execute("UPDATE batches SET done = 1 WHERE piece = ?", (piece,))
        (self._folder / f"{piece}.jsonl").unlink(missing_ok=True)

    def _again(self, model: str, key: bytes, body: dict[str, Any], reason: str) -> None:
        self._tries[key] = self._tries.get(key, 0) + 1
        self._seen.add(key)
        if self._tries[key] >= self._config.attempts:
            self._errors[key] = f"{reason} ({self._tries[key]} attempts)"
            return
        content = json.dumps(body, separators=(",", ":")).encode()
        tokens = sum(len(str(m["content"]).encode("utf-8", "replace")) + 16 for m in body["messages"])
        most = self._prices.cost(model, (tokens, 0, body[self._field]), batch=True) or 0.0
        self._gather(model, _line(key, content), most)

    def _read(self, line: dict[str, Any], model: str, body: dict[str, Any] | None) -> Paid | str:
        """A finished call, or why it failed."""
        response = line.get("response") or {}
        if line.get("error") or response.get("status_code") != 200:
            return scrub(f"the batch says: {line.get('error') or response.get('body')}", self._transport.access.key)[
                :500
            ]
        try:
            reply = parse_reply(response["body"], bool((body or {}).get("logprobs")))
        except (DamagedReply, KeyError) as error:
            return f"a damaged reply: {error}"
        result, tokens = reply.result, reply.tokens
        cost = None if tokens is None else self._prices.cost(model, tokens, batch=True)
        key = bytes.fromhex(line["custom_id"])
        return Paid(model, key, dump_result(result), result.prompt_tokens, result.completion_tokens, cost)

    def _note(self, sql: str, *parameters: Any) -> None:
        with self._journal.transaction() as db:
            db.execute(sql, parameters)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        for number in range(self._config.attempts):
            try:
                return await attempt(call, self._transport.access, _LONGEST)
            except Trouble as trouble:
                if not trouble.again or number + 1 == self._config.attempts:
                    raise EngineError(
                        "the Batch API failed", trouble.reason, todo="run the same command again"
                    ) from None
                own = backoff(number, self._config.backoff)
                await asyncio.sleep(own if trouble.wait is None else trouble.wait)
        raise AssertionError("unreachable")  # the last attempt returns or raises


async def _find(client: Any, piece: str) -> str | None:
    """The batch that carries a piece's name."""
    async for batch in client.batches.list(limit=100):
        if (batch.metadata or {}).get("truing") == piece and batch.status != "failed":
            return str(batch.id)
    return None


def _line(key: bytes, content: bytes) -> bytes:
    head = b'{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":' % key.hex().encode()
    return head + content + b"}\n"


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; what is not one is left out, so its request is owed."""
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _ending(batch: Any) -> str:
    """Why a request of a batch that is over has no line."""
    errors = "; ".join(str(e.message) for e in ((batch.errors and batch.errors.data) or []))
    return scrub(f"the batch ended as {batch.status} without it{': ' + errors if errors else ''}")[:500]
