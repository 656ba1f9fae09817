"""Sessions: generate under observation (capture), or observe finished text (replay)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ringlens.config import RECORDABLE, Sampling, recordable
from ringlens.errors import ConfigError
from ringlens.observe.batch import Observer, Text, generate, teacher_force
from ringlens.observe.record import Finished, run_record, trace_record
from ringlens.observe.sampling import trace_seed
from ringlens.observe.text import split_prompt
from ringlens.problem import Problem, from_row
from ringlens.store import Store, StoreWriter

if TYPE_CHECKING:
    from ringlens.lens import Lens


TINY = 50_000_000


@dataclass(frozen=True)
class Progress:
    """How far a session is.

    Attributes:
        traces: Traces committed.
        total: Traces in all.
        tokens: Tokens the model has processed, padding included.
        bytes_written: Bytes in committed files.
    """

    traces: int
    total: int
    tokens: int = 0
    bytes_written: int = 0


OnProgress = Callable[[Progress], None]


def capture(
    lens: Lens,
    problems: Sequence[Problem | str],
    store: str | Path | Store,
    *,
    batch_size: int = 16,
    record: Iterable[str] = RECORDABLE,
    on_progress: OnProgress | None = None,
    **sampling: Any,
) -> Store:
    """Let the model think about problems, and record it while it does.

    Args:
        lens: The model.
        problems: Problems, or plain prompts.
        store: Folder of the store; made if it is not there, added to if it is.
        batch_size: Problems generated side by side; no record depends on it.
        record: Any of "routing", "router_logits", "heads"; tokens are always recorded.
        on_progress: Called after each step.
        **sampling: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p``, ``seed``; see
            :class:`ringlens.config.Sampling`.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: An unknown or impossible setting, or no problems.
        StoreError: The store cannot be written. Traces committed before stay.
    """
    settings = Sampling.of(sampling)
    if isinstance(problems, str):
        raise ConfigError("capture takes a list of problems or prompts; wrap the prompt in a list.")
    work = [_problem(item, index) for index, item in enumerate(problems)]
    batches = list(_batches(work, batch_size))

    def run(observer: Observer) -> Iterator[list[Finished]]:
        for first, batch in batches:
            seeds = [trace_seed(settings.seed, first + i) for i in range(len(batch))]
            yield generate(observer, batch, settings, seeds)

    return _run(lens, store, "live", recordable(record), settings, len(work), run, on_progress)


def replay(
    lens: Lens,
    source: Sequence[str] | Store,
    store: str | Path | Store,
    *,
    batch_size: int = 8,
    record: Iterable[str] = RECORDABLE,
    on_progress: OnProgress | None = None,
) -> Store:
    """Observe finished text in one teacher-forced forward a batch.

    Args:
        lens: The model.
        source: Texts (chat markup included), or a store whose traces are replayed token by token.
        store: Folder of the store that the records go to; may be the source.
        batch_size: Texts a forward; no record depends on it.
        record: As for :func:`capture`.
        on_progress: Called after each forward.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: Nothing to replay.
        StoreError: The store cannot be read or written.
    """
    texts = _stored_texts(source) if isinstance(source, Store) else _plain_texts(lens, source)
    batches = list(_batches(texts, batch_size))

    def run(observer: Observer) -> Iterator[list[Finished]]:
        for _, batch in batches:
            yield teacher_force(observer, batch)

    settings = Sampling(max_new_tokens=1)
    return _run(lens, store, "replay", recordable(record), settings, len(texts), run, on_progress)


def _run(
    lens: Lens,
    store: str | Path | Store,
    mode: str,
    record: tuple[str, ...],
    settings: Sampling,
    total: int,
    batches: Callable[[Observer], Iterator[list[Finished]]],
    on_progress: OnProgress | None,
) -> Store:
    """Open the store, run the batches, commit each as it finishes."""
    folder = store.path if isinstance(store, Store) else Path(store)
    progress = Progress(0, total)

    def report(**changes: int) -> None:
        nonlocal progress
        progress = replace(progress, **changes)
        if on_progress is not None:
            on_progress(progress)

    observer = Observer(lens, record, lambda B, T: report(tokens=progress.tokens + B * T))
    with one_thread_if_tiny(lens), StoreWriter(folder) as writer:
        run_id = writer.start_run(run_record(lens, mode, record, settings))
        for finished in batches(observer):
            writer.commit(run_id, [trace_record(lens, trace, record) for trace in finished])
            report(traces=progress.traces + len(finished), bytes_written=writer.bytes_written)
        writer.finish_run(run_id)
    return Store(folder)


@contextmanager
def one_thread_if_tiny(lens: Lens) -> Iterator[None]:
    """Run a tiny model on one CPU thread, then restore the number of threads.

    Its matrix products take microseconds: threads gain nothing, and where another process wants the
    cores too, waiting for each other made every one of them a hundred times slower.
    """
    threads = torch.get_num_threads()
    tiny = lens.device.type == "cpu" and lens.model.num_parameters() < TINY
    torch.set_num_threads(1 if tiny else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _plain_texts(lens: Lens, texts: Sequence[str]) -> list[Text]:
    if isinstance(texts, str):
        raise ConfigError("replay takes a list of texts, or a Store; wrap the text in a list.")
    found = []
    for text in texts:
        prompt = lens.encode(text[: split_prompt(text)])
        rest = lens.encode(text[split_prompt(text) :])
        if not prompt + rest:
            raise ConfigError("an empty text cannot be replayed; leave it out.")
        found.append(Text(prompt + rest, len(prompt)))
    return found


def _stored_texts(store: Store) -> list[Text]:
    rows = store.sql(
        "select t.trace_id, t.n_prompt, t.problem_id, t.task, t.prompt, t.expected, "
        "list(k.token_id order by k.pos) as token_ids from traces t join tokens k "
        "using (trace_id) where t.source_trace_id is null group by all order by t.trace_id"
    ).to_arrow_table()
    return [
        Text(row["token_ids"], row["n_prompt"], from_row(row), row["trace_id"])
        for row in rows.to_pylist()
    ]


def _problem(item: Problem | str, index: int) -> Problem:
    return Problem(f"prompt-{index}", "", item) if isinstance(item, str) else item


def _batches(items: Sequence[Any], size: int) -> Iterator[tuple[int, Sequence[Any]]]:
    if not items:
        raise ConfigError("nothing to observe: give at least one problem or text.")
    if size < 1:
        raise ConfigError(f"batch_size = {size}; it must be at least 1.")
    for first in range(0, len(items), size):
        yield first, items[first : first + size]
