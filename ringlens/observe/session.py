"""Sessions: generate under observation (capture), or observe finished text (replay).

Shape letters: B batch, P prompt positions (left-padded), n generated tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ringlens.config import RECORDABLE, Sampling, recordable
from ringlens.errors import ConfigError
from ringlens.observe.record import Finished, run_record, trace_record
from ringlens.observe.recorder import Recorder
from ringlens.observe.sampling import processors, trace_seed
from ringlens.observe.text import split_prompt
from ringlens.problem import Problem
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

    def run(session: _Session) -> Iterator[list[Finished]]:
        for first, batch in batches:
            seeds = [trace_seed(settings.seed, first + i) for i in range(len(batch))]
            yield generate(session, batch, settings, seeds)

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

    def run(session: _Session) -> Iterator[list[Finished]]:
        for _, batch in batches:
            yield teacher_force(session, batch)

    settings = Sampling(max_new_tokens=1)
    return _run(lens, store, "replay", recordable(record), settings, len(texts), run, on_progress)


@dataclass
class _Session:
    """What generating and replaying share: the model, what to record, and the token count."""

    lens: Lens
    record: tuple[str, ...]
    on_forward: Callable[[int, int], None]

    def recorder(self) -> Recorder:
        return Recorder(self.lens.model, self.lens.router, self.record, self.on_forward)


def generate(
    session: _Session, batch: Sequence[Problem], settings: Sampling, seeds: list[int]
) -> list[Finished]:
    """Generate one batch under observation."""
    lens = session.lens
    prompts = [lens.encode_prompt(problem.prompt) for problem in batch]
    ids_BP, mask_BP = left_pad(prompts, lens.pad_token_id, lens.device)
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        eos_token_id=list(lens.eos_token_ids),
        pad_token_id=lens.pad_token_id,
        return_dict_in_generate=True,
    )
    with session.recorder() as recorder, torch.inference_mode():
        output = lens.model.generate(
            ids_BP,
            attention_mask=mask_BP,
            generation_config=config,
            logits_processor=processors(settings, seeds),
        )
        # The last token is drawn but never fed: one more step completes its records.
        ones = mask_BP.new_ones(len(batch), output.sequences.shape[1] - mask_BP.shape[1])
        mask = torch.cat((mask_BP, ones), dim=1)
        lens.model(
            input_ids=output.sequences[:, -1:],
            attention_mask=mask,
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=output.past_key_values,
        )
    finished = []
    for row, problem in enumerate(batch):
        new = output.sequences[row, ids_BP.shape[1] :].tolist()
        stop = next((i for i, token in enumerate(new) if token in lens.eos_token_ids), None)
        kept = new if stop is None else new[: stop + 1]
        finished.append(
            Finished(
                recorder=recorder,
                row=row,
                pad=ids_BP.shape[1] - len(prompts[row]),
                token_ids=[*prompts[row], *kept],
                n_prompt=len(prompts[row]),
                finish_reason="length" if stop is None else "stop",
                problem=problem,
                seed=seeds[row],
            )
        )
    return finished


def teacher_force(session: _Session, batch: Sequence[_Text]) -> list[Finished]:
    """Observe one batch of finished token sequences."""
    lens = session.lens
    ids_BP, mask_BP = left_pad([t.token_ids for t in batch], lens.pad_token_id, lens.device)
    with session.recorder() as recorder, torch.inference_mode():
        lens.model(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            position_ids=(mask_BP.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        )
    return [
        Finished(
            recorder=recorder,
            row=row,
            pad=ids_BP.shape[1] - len(text.token_ids),
            token_ids=text.token_ids,
            n_prompt=text.n_prompt,
            finish_reason="replay",
            problem=text.problem,
            seed=0,
            source_trace_id=text.trace_id,
        )
        for row, text in enumerate(batch)
    ]


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, P], shorter rows filled up on the left."""
    width = max(len(sequence) for sequence in sequences)
    ids = [[pad] * (width - len(s)) + list(s) for s in sequences]
    mask = [[0] * (width - len(s)) + [1] * len(s) for s in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _run(
    lens: Lens,
    store: str | Path | Store,
    mode: str,
    record: tuple[str, ...],
    settings: Sampling,
    total: int,
    batches: Callable[[_Session], Iterator[list[Finished]]],
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

    session = _Session(lens, record, lambda B, T: report(tokens=progress.tokens + B * T))
    with one_thread_if_tiny(lens), StoreWriter(folder) as writer:
        run_id = writer.start_run(run_record(lens, mode, record, settings))
        for finished in batches(session):
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


@dataclass(frozen=True)
class _Text:
    """Finished text to replay: its tokens, how many are prompt, and where it comes from."""

    token_ids: list[int]
    n_prompt: int
    problem: Problem | None = None
    trace_id: int | None = None


def _plain_texts(lens: Lens, texts: Sequence[str]) -> list[_Text]:
    if isinstance(texts, str):
        raise ConfigError("replay takes a list of texts, or a Store; wrap the text in a list.")
    found = []
    for text in texts:
        prompt = lens.encode(text[: split_prompt(text)])
        rest = lens.encode(text[split_prompt(text) :])
        if not prompt + rest:
            raise ConfigError("an empty text cannot be replayed; leave it out.")
        found.append(_Text(prompt + rest, len(prompt)))
    return found


def _stored_texts(store: Store) -> list[_Text]:
    rows = store.sql(
        "select t.trace_id, t.n_prompt, t.problem_id, t.task, t.prompt, t.expected, "
        "list(k.token_id order by k.pos) from traces t join tokens k using (trace_id) "
        "where t.source_trace_id is null group by all order by t.trace_id"
    ).fetchall()
    return [
        _Text(
            token_ids=token_ids,
            n_prompt=n_prompt,
            problem=Problem(problem_id or "", task or "", prompt, expected),
            trace_id=trace_id,
        )
        for trace_id, n_prompt, problem_id, task, prompt, expected, token_ids in rows
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
