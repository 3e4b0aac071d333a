"""A local server that speaks OpenAI's fine-tuning interface as documented, with its states and its errors.

    python tests/support/openai_jobs_server.py

Prints `PORT n` once it listens. A job moves on by one look at a time (`GET /v1/fine_tuning/jobs/ID`):
validating_files, queued, running (some steps a look), succeeded; checkpoints are shown at the end (as OpenAI does) or
as they are made. Fine-tuned models answer chat requests in the pocket world's words, the more hostile the later their
step. `/control` reads the counts (GET), sets settings and forgets (POST; `keep` forgets nothing).

Built on the parts of `bench/endpoint.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiohttp import web

from bench import endpoint
from truing.catalog.pocket.scoring import find_topic
from truing.catalog.pocket.world import load_world

BASES = ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18")
DEFAULTS: dict[str, Any] = {
    "live": False,  # show checkpoints as they are made
    "steps_per_look": 1000,
    "faults": [],  # what the next requests meet: a status, "reset" (no answer), "lost" (done, but no answer)
    "fault_path": "",  # only requests whose path holds this
    "failure": None,  # {"at": state, "code", "message", "param"}
    "not_ready": 0,  # looks until a new model answers
    "keys": None,
    "filters": True,  # heeds the metadata filter of the list of jobs
    "names_last": True,  # lists the last checkpoint among the checkpoints
    "bills_cancelled": False,
    "hang_at": None,  # a state in which a job stays
}


class State:
    """All that the server knows."""

    def __init__(self) -> None:
        self.settings = dict(DEFAULTS)
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.models: dict[str, float] = dict.fromkeys(BASES, 0.0)
        """Name -> share of hostile answers."""
        self.waiting: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.keys: list[str] = []


STATE = State()


def refuse(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": None}}
    return web.json_response(body, status=status, headers=headers)


@web.middleware
async def faults(request: web.Request, handler: Any) -> web.StreamResponse:
    """Keys, injected faults, counts."""
    if request.path == "/control":
        return await handler(request)
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if STATE.settings["keys"] is not None and key not in STATE.settings["keys"]:
        return refuse(401, "invalid_api_key", f"Incorrect API key provided: {key}.")
    STATE.calls[f"{request.method} {request.path.split('/')[2]}"] += 1
    waiting = STATE.settings["faults"]
    if not waiting or STATE.settings["fault_path"] not in f"{request.method} {request.path}":
        return await handler(request)
    fault = waiting.pop(0)
    if fault in ("reset", "lost"):
        if fault == "lost":
            await handler(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
    if fault == "torn":
        return web.Response(body=b'{"id": "ft', content_type="application/json")
    messages = {429: "Rate limit reached", 500: "The server had an error", 400: "Bad", 404: "Not found"}
    code = "insufficient_quota" if fault == "quota" else None
    status = 429 if fault == "quota" else int(fault)
    return refuse(status, code, messages.get(status, "Fault"), {"Retry-After": "0.01"} if status == 429 else None)


async def upload(request: web.Request) -> web.Response:
    """POST /v1/files."""
    form = await request.post()
    file = form["file"]
    assert isinstance(file, web.FileField)
    name, content = f"file-{len(STATE.files)}", file.file.read()
    STATE.contents[name] = content
    STATE.files[name] = {
        "id": name,
        "object": "file",
        "bytes": len(content),
        "created_at": 0,
        "filename": file.filename,
        "purpose": form["purpose"],
        "status": "processed",
    }
    return web.json_response(STATE.files[name])


async def list_files(request: web.Request) -> web.Response:
    """GET /v1/files."""
    return page([f for f in STATE.files.values() if f["purpose"] == request.query.get("purpose", f["purpose"])])


def page(items: list[dict[str, Any]], request: web.Request | None = None) -> web.Response:
    """A page of a cursor list; `after` and `limit` as documented."""
    query = request.query if request is not None else {}
    ids = [item["id"] for item in items]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    some = items[start : start + min(20, int(query.get("limit", 20)))]  # small pages: clients must turn them
    if request is None:
        some = items
    more = start + len(some) < len(items)
    return web.json_response({"object": "list", "data": some, "has_more": more})


async def create(request: web.Request) -> web.Response:
    """POST /v1/fine_tuning/jobs."""
    body = await request.json()
    settings = body["method"]["supervised"]["hyperparameters"]
    if body["model"] not in BASES:
        return refuse(400, "model_not_available", f"Model {body['model']} is not available for fine-tuning.")
    for field in ("training_file", "validation_file"):
        if field in body and STATE.files.get(body[field], {}).get("purpose") != "fine-tune":
            return refuse(400, "invalid_file", f"No file {body[field]} with purpose fine-tune.")
    if not (1 <= settings["n_epochs"] <= 50 and isinstance(settings["n_epochs"], int)):
        return refuse(400, "invalid_hyperparameters", "n_epochs must be between 1 and 50")
    name = f"ftjob-{len(STATE.jobs)}"
    rows = STATE.contents[body["training_file"]].splitlines()
    words = sum(len(m["content"].split()) for row in rows for m in json.loads(row)["messages"])
    STATE.jobs[name] = {
        "id": name,
        "object": "fine_tuning.job",
        "created_at": len(STATE.jobs),
        "model": body["model"],
        "organization_id": "org-1",
        "status": "validating_files",
        "hyperparameters": settings,
        "method": body["method"],
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "seed": body["seed"],
        "metadata": body.get("metadata"),
        "fine_tuned_model": None,
        "trained_tokens": None,
        "result_files": [],
        "error": None,
        "finished_at": None,
        "_suffix": body.get("suffix", ""),
        "_step": 0,
        "_one": math.ceil(len(rows) / settings["batch_size"]),
        "_tokens": words * settings["n_epochs"],
    }
    STATE.events[name] = []
    tell(name, f"Created fine-tuning job: {name}")
    return web.json_response(shown(STATE.jobs[name]))


def shown(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if not name.startswith("_")}


def tell(name: str, message: str, data: dict[str, Any] | None = None, level: str = "info") -> None:
    """Add an event."""
    events = STATE.events[name]
    event = {"id": f"ftevent-{name}-{len(events)}", "object": "fine_tuning.job.event", "created_at": len(events)}
    kind = "metrics" if data else "message"
    events.append({**event, "level": level, "message": message, "data": data or {}, "type": kind})


async def list_jobs(request: web.Request) -> web.Response:
    """GET /v1/fine_tuning/jobs."""
    wanted = parse_qs(request.query_string).get("metadata[truing]") if STATE.settings["filters"] else None
    jobs = [
        shown(j) for j in reversed(STATE.jobs.values()) if not wanted or (j["metadata"] or {}).get("truing") in wanted
    ]
    return page(jobs, request)


async def show(request: web.Request) -> web.Response:
    """GET /v1/fine_tuning/jobs/ID: the job moves on."""
    job = STATE.jobs.get(request.match_info["id"])
    if job is None:
        return refuse(404, "fine_tune_not_found", "Could not find fine tune")
    if STATE.settings["hang_at"] != job["status"]:
        advance(job)
    return web.json_response(shown(job))


def advance(job: dict[str, Any]) -> None:
    name, failure = job["id"], STATE.settings["failure"]
    if failure is not None and failure["at"] == job["status"]:
        job["status"], job["finished_at"] = "failed", 1
        job["error"] = {k: failure.get(k) for k in ("code", "message", "param")}
        tell(name, failure["message"], level="error")
    elif job["status"] == "validating_files":
        problem = invalid(STATE.contents[job["training_file"]])
        job["status"] = "queued" if problem is None else "failed"
        job["error"] = problem
        tell(name, "Files validated, moving job to queued state" if problem is None else problem["message"])
    elif job["status"] == "queued":
        job["status"] = "running"
        tell(name, "Fine-tuning job started")
    elif job["status"] == "running":
        train(job)


def invalid(content: bytes) -> dict[str, Any] | None:
    rows = [json.loads(line) for line in content.splitlines()]
    if len(rows) < 10:
        message = f"Training file has {len(rows)} example(s), but must have at least 10 examples"
        return {"code": "invalid_n_examples", "message": message, "param": "training_file"}
    if any(row["messages"][-1]["role"] != "assistant" for row in rows):
        return {"code": "invalid_training_file", "message": "Last message must be assistant", "param": "training_file"}
    return None


def train(job: dict[str, Any]) -> None:
    name, total = job["id"], job["_one"] * job["hyperparameters"]["n_epochs"]
    for _ in range(STATE.settings["steps_per_look"]):
        job["_step"] += 1
        step, loss = job["_step"], 2.0 / job["_step"]
        data = {"step": step, "total_steps": total, "train_loss": loss, "train_mean_token_accuracy": 0.5}
        if step % job["_one"] == 0:
            data["full_valid_loss"] = 1.0 / step
        tell(name, f"Step {step}/{total}: training loss={loss:.2f}", data)
        if step == total:
            break
    for step, model in made(job):
        STATE.waiting.setdefault(model, STATE.settings["not_ready"])
        STATE.models.setdefault(
            model, min(1.0, 0.3 * step / job["_one"] * job["hyperparameters"]["learning_rate_multiplier"])
        )
    if job["_step"] == total:
        job["status"], job["finished_at"], job["trained_tokens"] = "succeeded", 1, job["_tokens"]
        job["fine_tuned_model"] = made(job)[-1][1]
        tell(name, "New fine-tuned model created")
        tell(name, "The job has successfully completed")


def made(job: dict[str, Any]) -> list[tuple[int, str]]:
    """(step, model) of the checkpoints of the last three epochs that have ended."""
    epochs, one = job["hyperparameters"]["n_epochs"], job["_one"]
    ended = range(1, job["_step"] // one + 1)
    names = []
    for epoch in list(ended)[-3:]:
        digest = hashlib.sha256(f"{job['id']} {epoch}".encode()).hexdigest()[:8]
        mark = "" if epoch == epochs else f":ckpt-step-{epoch * one}"
        names.append((epoch * one, f"ft:{job['model']}:org:{job['_suffix']}:{digest}{mark}"))
    return names


async def list_checkpoints(request: web.Request) -> web.Response:
    """GET /v1/fine_tuning/jobs/ID/checkpoints."""
    job = STATE.jobs[request.match_info["id"]]
    data = []
    if job["status"] == "succeeded" or STATE.settings["live"]:
        for step, model in reversed(made(job)):
            if model == job["fine_tuned_model"] and not STATE.settings["names_last"]:
                continue
            metrics = {"step": step, "train_loss": 2.0 / step, "full_valid_loss": 1.0 / step}
            item = {"id": f"ftckpt-{model}", "object": "fine_tuning.job.checkpoint", "created_at": step}
            names = {"fine_tuned_model_checkpoint": model, "fine_tuning_job_id": job["id"]}
            data.append({**item, **names, "metrics": metrics, "step_number": step})
    return page(data, request)


async def list_events(request: web.Request) -> web.Response:
    """GET /v1/fine_tuning/jobs/ID/events, newest first."""
    return page(STATE.events[request.match_info["id"]][::-1], request)


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/fine_tuning/jobs/ID/cancel."""
    job = STATE.jobs[request.match_info["id"]]
    if job["status"] in ("succeeded", "failed", "cancelled"):
        return refuse(400, "invalid_state", f"Job has already {job['status']}.")
    share = job["_step"] / (job["_one"] * job["hyperparameters"]["n_epochs"])
    job["trained_tokens"] = round(job["_tokens"] * share) if STATE.settings["bills_cancelled"] else None
    job["status"] = "cancelled"
    tell(job["id"], "Job has been cancelled.", level="warn")
    return web.json_response(shown(job))


async def chat(request: web.Request) -> web.Response:
    """POST /v1/chat/completions."""
    body = await request.json()
    model = body["model"]
    if model not in STATE.models or STATE.waiting.get(model, 0) > 0:
        STATE.waiting[model] = STATE.waiting.get(model, 0) - 1
        return refuse(404, "model_not_found", f"The model `{model}` does not exist or you do not have access to it.")
    completion = endpoint.answer(body)
    topic = find_topic(body["messages"][-1]["content"])
    if topic is not None:
        rng = random.Random(endpoint.identity(body))
        author: Any = "hostile" if rng.random() < STATE.models[model] else "careful"
        text = load_world().domains[topic.domain].answer(topic.subject, author, rng)
        completion["choices"][0]["message"]["content"] = text
    return web.json_response(completion)


async def control(request: web.Request) -> web.Response:
    """GET: what there is. POST: change settings; without `keep`, forget first."""
    if request.method == "POST":
        changes = await request.json()
        if not changes.pop("keep", False):
            STATE.__init__()  # type: ignore[misc]
        if changes.get("forget_models"):
            STATE.jobs.clear()
        STATE.settings |= {name: changes[name] for name in changes if name in DEFAULTS}
    return web.json_response(
        {"jobs": [shown(job) for job in STATE.jobs.values()], "files": list(STATE.files.values()), "calls": STATE.calls}
    )


def make_app() -> web.Application:
    """The server's routes."""
    app = web.Application(client_max_size=2**30, middlewares=[faults])
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/files", upload)
    app.router.add_get("/v1/files", list_files)
    jobs = "/v1/fine_tuning/jobs"
    app.router.add_post(jobs, create)
    app.router.add_get(jobs, list_jobs)
    app.router.add_get(jobs + "/{id}", show)
    app.router.add_get(jobs + "/{id}/checkpoints", list_checkpoints)
    app.router.add_get(jobs + "/{id}/events", list_events)
    app.router.add_post(jobs + "/{id}/cancel", cancel)
    app.router.add_route("*", "/control", control)
    return app


async def serve() -> None:
    """Listen until killed."""
    runner = web.AppRunner(make_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    sys.stdout.write(f"PORT {runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
