"""Import of what model servers answered: text, tokens, and routing where they report it.

The answers are saved responses, or come live: problems are sent to a server. Either way the same
call resumes an interrupted import.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from ringlens.config import Sampling, refuse_unknown
from ringlens.errors import ConfigError, ProblemError, ServingError
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.observe.given import TextOrIds
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.observe.session import OnProgress
from ringlens.observe.tasks import problem_tasks
from ringlens.problem import Problem, check_problem
from ringlens.serving.address import NoServerError
from ringlens.serving.client import Client, Patience
from ringlens.serving.records import imported_run, trace_record
from ringlens.serving.responses import Exchange
from ringlens.serving.saved import SavedResponses
from ringlens.serving.served_model import ServedModel
from ringlens.serving.server_kinds import ServerKind, find_kind
from ringlens.serving.target import Target, fingerprint, open_target
from ringlens.store import Store
from ringlens.store.schema.records import RunRecord, TraceRecord

OnBad = Callable[[ServingError], None]

LONGEST_VERSION = 200
"""Most characters of a server's version."""


def refuse(error: ServingError) -> None:
    """Raise the error of an answer that cannot be imported: the default of ``on_bad``."""
    raise error


@refuse_unknown
def import_responses(
    kind: str | ServerKind,
    paths: Iterable[str | Path],
    store: str | Path | Store,
    *,
    model: str | PathLike[str] | ServedModel,
    problems: Sequence[Problem] = (),
    prompt_start: int | None = None,
    on_bad: OnBad = refuse,
    on_progress: OnProgress | None = None,
) -> Store:
    """Import saved responses, each choice as a trace. All are checked before any is stored.

    Args:
        kind: Kind of server: "vllm", "sglang", or "openai" for text without routing.
        paths: JSON and JSONL files; see :mod:`ringlens.serving.saved`.
        store: Folder or address of the store; made if it is missing, else added to.
        model: What was served: its configuration says which layers route, and its tokenizer what
            the tokens mean. Weights are not needed.
        problems: What was asked, for grading; matched by id (``custom_id``) or prompt.
        prompt_start: Position of the first row of routing, where requests had an offset and are
            not in the files.
        on_bad: Called with the reason for each answer that cannot be imported; the default raises.
        on_progress: Called after each commit.

    Returns:
        The store, open for reading.

    Raises:
        ServingError: A file cannot be read, an answer is bad, or none is good. Nothing is stored.
        StoreError: The store cannot be written.
    """
    for index, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            raise ProblemError(f"problem {index} is a {type(problem).__name__}; give a Problem.")
        check_problem(problem, f"problem {index}")
    files = tuple(Path(path) for path in paths)
    source = SavedResponses(_kind(kind), _model(model), files, tuple(problems), prompt_start)
    good = []
    for outcome in source.outcomes():
        good.append(isinstance(outcome, TraceRecord))
        if isinstance(outcome, ServingError):
            on_bad(outcome)
    if not any(good):
        raise ServingError("no response to import: give files with at least one that is whole.")
    with open_target(store, source.run()) as target:
        target.expect(sum(good), on_progress)
        for item, outcome in enumerate(source.outcomes()):
            if item not in target.done and isinstance(outcome, TraceRecord):
                target.add(replace(outcome, item=item))
    return Store(target.folder)


@refuse_unknown
def import_problems(
    kind: str | ServerKind,
    server: str,
    problems: TextOrIds,
    store: str | Path | Store,
    *,
    model: str | PathLike[str] | ServedModel,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    served_as: str | None = None,
    api_key: str | None = None,
    patience: Patience | None = None,
    on_bad: OnBad = refuse,
    on_progress: OnProgress | None = None,
) -> Store:
    """Send problems to a server and import what it answers.

    The same call resumes an interrupted import: what is stored is not asked again.

    Args:
        kind: "vllm", "sglang", "openai" for text without routing, or "openai-chat" for the same
            from servers that only have chat completions.
        server: Its address, such as ``http://localhost:8000``.
        problems: Problems, plain prompts, or what else :func:`ringlens.capture` takes.
        store: Folder or address of the store; made if it is missing, else added to.
        model: As for :func:`import_responses`.
        max_new_tokens: Most tokens that the server may add to a prompt.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        top_k: Draw among the k most likely tokens; 0 for all.
        top_p: Draw among the most likely tokens that together have this probability.
        seed: Seed of the run; the seed of a trace follows from it and the trace's index.
        served_as: Name of the model in the server; None for the first that it lists.
        api_key: Key of the server; it is sent and never stored.
        patience: Requests at a time, timeouts and retries.
        on_bad: Called with the reason for each answer that cannot be imported; the default raises.
        on_progress: Called after each answer.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: An unknown or impossible setting, or no problems.
        ServingError: The server is gone, or an answer is bad. What was answered before is stored.
        StoreError: The store cannot be written.
    """
    from anyio.from_thread import start_blocking_portal

    settings = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    kind, served = _kind(kind), _model(model)
    tasks = problem_tasks(served, problems, settings)
    if not tasks:
        raise ConfigError("nothing to ask: give at least one problem.")
    patience = patience or Patience()
    # In a notebook this thread already runs an event loop, so ours gets a thread of its own.
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(server, patience, api_key)) as client,
    ):
        name = served_as or portal.call(_first_model, client)
        versions = portal.call(_versions, client, kind)
        run = _live_run(kind, served, settings, tasks, name, versions)
        with open_target(store, run) as target:
            target.expect(len(tasks), on_progress)

            def ask(task: Task) -> Future:
                body = kind.body(served, task, settings, name)
                return portal.start_task_soon(_ask, client, kind, task, body)

            left = [task for task in tasks if task.item not in target.done]
            read = partial(_only_record, kind, served)
            with closing(in_turn(ask, left, patience.concurrency)) as answers:
                _add_answers(target, answers, read, on_bad)
    return Store(target.folder)


def _add_answers(
    target: Target,
    answers: Iterable[tuple[Task, Future]],
    read: Callable[[Exchange, Task], TraceRecord],
    on_bad: OnBad,
) -> None:
    """Add each answer as it comes; pass a bad one to ``on_bad``.

    Raises:
        NoServerError: The server is gone, so no other answer will come.
    """
    for task, asked in answers:
        try:
            target.add(read(asked.result(), task))
        except NoServerError:
            raise
        except ServingError as error:
            on_bad(error)


def in_turn(
    submit: Callable[[Task], Future], tasks: Iterable[Task], at_once: int
) -> Generator[tuple[Task, Future], None, None]:
    """Tasks with their futures as they finish, ``at_once`` of them running at a time."""
    waiting: dict[Future, Task] = {}
    rest = iter(tasks)
    try:
        while True:
            waiting |= {submit(task): task for task in islice(rest, at_once - len(waiting))}
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future
    finally:
        for future in waiting:
            future.cancel()


def _live_run(
    kind: ServerKind,
    model: ServedModel,
    settings: Sampling,
    tasks: Sequence[Task],
    served_as: str,
    versions: dict[str, str],
) -> RunRecord:
    sampling = asdict(settings)
    asked = {
        "engine": kind.name,  # stores of today have this key: resuming depends on it
        "model": [model.name, model.revision, served_as],
        "tokenizer": tokenizer_digest(model.tokenizer),
        "sampling": sampling,
        "tasks": [(task.token_ids, task.seed) for task in tasks],
    }
    return imported_run(
        model,
        kind.name,
        routing=kind.decode is not None,
        seed=settings.seed,
        sampling=sampling,
        fingerprint=fingerprint(asked),
        versions=versions,
    )


async def _ask(client: Client, kind: ServerKind, task: Task, body: dict[str, Any]) -> Exchange:
    name = task.problem.id if task.problem is not None else f"problem {task.item}"
    return Exchange(await client.post(kind.path, body), body, name, name)


async def _first_model(client: Client) -> str:
    """The name of the first model that a server lists."""
    found = await client.get("/v1/models")
    data = found.get("data") if isinstance(found, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    name = first.get("id") if isinstance(first, dict) else None
    if not isinstance(name, str):
        raise ServingError(f"{client.server}/v1/models names no model: give --served-as.")
    return name


async def _versions(client: Client, kind: ServerKind) -> dict[str, str]:
    """The server's version; nothing where it gives none, and runs then say "unknown"."""
    if kind.version_path is None:
        return {}
    try:
        found = await client.get(kind.version_path)
    except NoServerError:
        return {}
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, str) or not version.isprintable() or len(version) > LONGEST_VERSION:
        return {}
    return {kind.name: version}


def _only_record(
    kind: ServerKind, model: ServedModel, exchange: Exchange, task: Task
) -> TraceRecord:
    answers = kind.read(exchange)
    if len(answers) != 1:
        raise ServingError(f"{exchange.place}: {len(answers)} answers to one request")
    kind.check(answers[0])
    return trace_record(model, answers[0], kind.decode, task.item, task.problem, task.seed)


def _kind(kind: str | ServerKind) -> ServerKind:
    return find_kind(kind) if isinstance(kind, str) else kind


def _model(model: str | PathLike[str] | ServedModel) -> ServedModel:
    return model if isinstance(model, ServedModel) else ServedModel.read(model)
