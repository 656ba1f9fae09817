"""Sessions: generate under observation (capture), or observe finished text (replay)."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ringlens.config import OnLayers, Recorded, Sampling, number, refuse_unknown, whole
from ringlens.errors import ConfigError, ObservationError
from ringlens.interventions import Intervention
from ringlens.observe.batch import PREFILL, Observer, teacher_force
from ringlens.observe.decoding.choice import Decode, Wanted, check_decode, generating
from ringlens.observe.given import TextOrIds
from ringlens.observe.inputs import check_rows, say_beyond_context
from ringlens.observe.instruments.layers import on_layers
from ringlens.observe.instruments.monitor import NAME
from ringlens.observe.instruments.vectors import resolve
from ringlens.observe.interventions.attached import Attached, attached_to
from ringlens.observe.interventions.effect import of_shards, of_shares
from ringlens.observe.interventions.resolve import Given
from ringlens.observe.interventions.resolve import resolve as resolve_interventions
from ringlens.observe.interventions.together import settle
from ringlens.observe.monitoring.judge import Judge
from ringlens.observe.monitoring.monitor import Monitor, read_monitor
from ringlens.observe.pipeline.commit_thread import EVERY, OnStored, Recording
from ringlens.observe.pipeline.encoding import encoding_of
from ringlens.observe.pipeline.following import Following
from ringlens.observe.pipeline.forecast import forecast, left_out, say
from ringlens.observe.pipeline.ranks import RankRole, gone_peers, rank_role
from ringlens.observe.pipeline.run_record import WITH, run_record
from ringlens.observe.pipeline.step import OnTokens
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.observe.resume import batches, unfinished_batches
from ringlens.observe.same_rule import check_same_rule
from ringlens.observe.same_tokenizer import check_same_tokenizer
from ringlens.observe.tasks import problem_tasks, stored_texts, text_tasks
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain.compact import tidy
from ringlens.store.schema.captured import MONITOR
from ringlens.store.schema.instruments import REQUESTS, default_names, layers_asked, recordable
from ringlens.store.schema.records import RunRecord

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

log = logging.getLogger(__name__)

TINY = 50_000_000

SETTINGS = "settings"
"""Key of the row of ``probes`` that says what a monitor is."""


@dataclass(frozen=True)
class Progress:
    """How far a session is.

    Attributes:
        traces: Traces committed.
        total: Traces in all.
        tokens: Tokens of traces recorded by this call; neither padding nor what a batch still
            runs behind the end of a trace, nor what an interrupted call had stored.
        bytes_written: Bytes in committed files.
        waited: Seconds that the model has waited for the recording.
    """

    traces: int
    total: int
    tokens: int = 0
    bytes_written: int = 0
    waited: float = 0.0


ROUTER = ("routing", "router_logits")
"""What is recorded of routers."""

OnProgress = Callable[[Progress], None]
RunBatch = Callable[[Observer, Sequence[Task]], None]


@refuse_unknown
def capture(
    lens: LoadedModel,
    problems: TextOrIds,
    store: str | Path | Store,
    *,
    system: str | None = None,
    samples: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    record: Iterable[Recorded] | None = None,
    commit_every: float = EVERY,
    on_progress: OnProgress | None = None,
    on_tokens: OnTokens | None = None,
    on_stored: OnStored | None = None,
    stop: threading.Event | None = None,
    allow_nonfinite: bool = False,
    interventions: Given = (),
    decode: Decode = "auto",
    monitor: Monitor | str | PathLike[str] | None = None,
    workers: int | None = None,
) -> Store:
    """Let the model think about problems, and record it while it does.

    An interrupted run is taken up again by the same call: finished batches are not done twice, and
    one that was interrupted runs again from its prompts, so that all records behind the last
    committed token are bit for bit those of an uninterrupted run. Under torchrun or ``accelerate
    launch`` the processes share the problems out, or the model, if it was loaded sharded.

    Args:
        lens: The model.
        problems: Problems or plain prompts, which are put in the chat template unless they are in
            it already; chats (lists of messages); token ids or a tokenizer's output, which are
            used as they are; or a list of these. `ringlens.problems` reads them from files.
        store: Folder or address of the store; made if it is not there, added to if it is.
        system: System prompt of all, put through the chat template.
        samples: Traces of each problem, drawn apart from one another: they need a temperature.
            ``traces.sample`` numbers them.
        max_new_tokens: Most tokens a trace may add to its prompt.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        top_k: Draw among the k most likely tokens; 0 for all.
        top_p: Draw among the most likely tokens that together have this probability.
        seed: Seed of the run; the seed of a trace follows from it and the trace's index.
        batch_size: Problems generated side by side; no record depends on it.
        record: Any of "logprobs" (of every token, with the entropy before it), "routing",
            "router_logits", "heads" (of every token), "head_blocks" (by 64 positions, stored with
            heads in any case), and vectors or top attention positions as
            :class:`ringlens.config.Vectors` and :class:`ringlens.config.TopAttention` (or their
            text form, such as "resid_post@3+5"), and whatever else is a row of
            `ringlens.store.schema.instruments`; tokens are always recorded. A name with layers,
            as "routing@3-5" or :class:`ringlens.config.OnLayers`, is recorded on these alone. None
            records log-probabilities, routing, router logits and heads; of a model with more than
            512 heads in all, head blocks in place of heads.
        commit_every: Seconds after which a running batch is committed as far as it is.
        on_progress: Called after each step.
        on_tokens: Called with the tokens of each step (a list of
            :class:`ringlens.observe.pipeline.step.TraceStep`): text, phase, entropy and routing, as
            they come. A session that is followed works its records up step by step, which costs
            the model some speed and changes numbers within rounding. Under torchrun all processes
            give one, or none does.
        on_stored: Called with the store's writer, the run and the ids of traces that were just
            stored to their ends, such as `ringlens.analysis.roles.labelling.label_stored`, which
            cuts them into steps. Under torchrun all processes give one, or none does.
        stop: Ends the run early when it is set: the running traces end after the next token, as
            ``finish_reason`` "interrupted". Problems that were not begun are left, and the same
            call takes them up.
        allow_nonfinite: Go on where a number of the model is NaN or infinite, and flag its trace
            and token (``traces.flags``, ``tokens.nonfinite``).
        interventions: What to change in the model while it runs: objects such as
            :class:`ringlens.Ablate`, or their text form. They are stored with the run
            (``runs.interventions``), and the router record says what the routers would have chosen
            as well. An interrupted run goes on with the same ones only. See docs/acting.md.
        decode: "graph" repeats a decoding step as a CUDA graph, which takes Python out of it;
            "eager" calls the model for each token; "auto" takes a graph where there can be one, and
            says why where there cannot. Tokens and records are the same, up to what two kernels
            round differently.
        monitor: A linear probe that scores each token of the thoughts, or its file; see
            `ringlens.probes.monitor.train_monitor`. It flags the traces that it warns of
            (``traces.flags``), or stops them, as ``finish_reason`` "monitor". Its scores are in the
            table ``monitor_scores``, and what it is in ``probes``. A run with one decodes eagerly.
        workers: Processes that encode the records; 0 encodes in threads of this process, which
            then share Python's lock with the model. None: as many as pay for themselves on these
            cores, which is none for a small model. The records are the same.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: An unknown or impossible setting, ``stop`` in several processes, no problems,
            a system prompt that the chat template does not take, or ``decode="graph"`` where there
            can be none.
        ObservationError: A number of the model is NaN or infinite, or another process of the run
            is gone. What was committed before stays, and the same call, or one with
            ``allow_nonfinite``, takes the run up again.
        StoreError: The store cannot be written. What was committed before stays.
    """
    settings = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    check_decode(decode)
    batch_size = whole("batch_size", batch_size, 1)
    tasks = problem_tasks(lens, problems, settings, samples=samples, system=system)

    watching = None if monitor is None else read_monitor(monitor)
    asked = default_record(lens) if record is None else record
    recorded = resolved(lens, asked if watching is None else (*_listed(asked), NAME))
    followed = on_tokens is not None or stop is not None
    generate = generating(decode, Wanted(lens, recorded, batch_size))

    def run(observer: Observer, batch: Sequence[Task]) -> None:
        generate(observer, batch, settings)

    session = _Session(
        lens,
        "live",
        recorded,
        settings,
        batch_size,
        commit_every,
        allow_nonfinite=allow_nonfinite,
        following=Following(on_tokens, stop) if followed else None,
        interventions=resolve_interventions(lens, interventions),
        on_stored=on_stored,
        monitor=watching,
        chosen=left_out(lens.sizes) if record is None else "",
        workers=workers,
    )
    return session.run(store, tasks, run, on_progress)


@refuse_unknown
def replay(
    lens: LoadedModel,
    source: TextOrIds | Store,
    store: str | Path | Store,
    *,
    batch_size: int = 8,
    record: Iterable[Recorded] | None = None,
    prefill: int = PREFILL,
    commit_every: float = EVERY,
    on_progress: OnProgress | None = None,
    on_stored: OnStored | None = None,
    allow_nonfinite: bool = False,
    interventions: Given = (),
    workers: int | None = None,
) -> Store:
    """Observe finished text in one teacher-forced forward a batch.

    Args:
        lens: The model.
        source: Texts (taken as they stand, chat markup included), token ids, a tokenizer's output,
            chats, completions, or a list of these; or a store whose traces are replayed token by
            token.
        store: Folder or address of the store that the records go to; may be the source.
        batch_size: Texts a forward; no record depends on it.
        record: As for :func:`capture`.
        prefill: Positions a forward takes at most; longer texts go through in several, with a
            cache, and memory for all else stays that of one.
        commit_every: As for :func:`capture`.
        on_progress: Called after each forward.
        on_stored: As for :func:`capture`.
        allow_nonfinite: As for :func:`capture`.
        interventions: As for :func:`capture`.
        workers: As for :func:`capture`.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: Nothing to replay, token ids of another tokenizer, or an unknown or impossible
            setting.
        ObservationError: As for :func:`capture`.
        StoreError: The store cannot be read or written.
    """
    if isinstance(source, Store):
        check_same_tokenizer(lens, source)
        tasks = stored_texts(source)
        check_rows(lens, [task.token_ids for task in tasks])
        say_beyond_context(lens, [len(task.token_ids) for task in tasks])
    else:
        tasks = text_tasks(lens, source)
    settings = Sampling(max_new_tokens=1)
    session = _Session(
        lens,
        "replay",
        resolved(lens, default_record(lens) if record is None else record),
        settings,
        batch_size,
        commit_every,
        prefill,
        allow_nonfinite,
        interventions=resolve_interventions(lens, interventions),
        on_stored=on_stored,
        chosen=left_out(lens.sizes) if record is None else "",
        workers=workers,
    )
    return session.run(store, tasks, teacher_force, on_progress)


def default_record(lens: LoadedModel) -> tuple[str, ...]:
    """What is recorded of a model where nothing else is asked for."""
    return default_names(lens.sizes.layers * lens.sizes.heads)


def resolved(lens: LoadedModel, record: Iterable[Recorded]) -> tuple[Recorded, ...]:
    """What to record, checked against the model; every layer, head and position is named."""
    return tuple(_resolved(lens, item) for item in recordable(record))


def _resolved(lens: LoadedModel, item: Recorded) -> Recorded:
    if isinstance(item, str):
        return item
    return on_layers(lens, item) if isinstance(item, OnLayers) else resolve(lens, item)


@dataclass(frozen=True)
class _Session:
    """What capture and replay share: run the batches, commit them, take up what was left."""

    lens: LoadedModel
    mode: str
    record: tuple[Recorded, ...]
    settings: Sampling
    batch_size: int
    commit_every: float
    prefill: int = PREFILL
    allow_nonfinite: bool = False
    following: Following | None = None
    interventions: tuple[Intervention, ...] = ()
    on_stored: OnStored | None = None
    monitor: Monitor | None = None
    chosen: str = ""
    workers: int | None = None

    def __post_init__(self) -> None:
        fixed = {
            "batch_size": whole("batch_size", self.batch_size, 1),
            "commit_every": number("commit_every", self.commit_every, 0),
            "prefill": whole("prefill", self.prefill, 1),
        }
        if self.workers is not None:
            fixed["workers"] = whole("workers", self.workers, 0)
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    def run(
        self,
        store: str | Path | Store,
        tasks: list[Task],
        run_batch: RunBatch,
        on_progress: OnProgress | None,
    ) -> Store:
        if not tasks:
            raise ConfigError("nothing to observe: give at least one problem or text.")
        folder = store.address if isinstance(store, Store) else store
        here = rank_role(self.lens)
        if self.following is not None:
            self.following.check(here.processes)
        if any(
            layers_asked(name, self.record, here.layers) for name in ("routing", "router_logits")
        ):
            check_same_rule(self.lens, here.layers)
        if attached_to(self.lens.model) is not None:
            raise ObservationError(
                "interventions are attached to this model, which the run would not know of: leave "
                "the block of lens.intervene, and give them as interventions=[…]."
            )
        judge = self._judge()
        run = run_record(
            self.lens,
            self.mode,
            self.record,
            self.settings,
            tasks,
            here,
            self.interventions,
            "" if self.monitor is None else self.monitor.digest,
        )
        if self.monitor is not None:
            self.monitor.check(run)
        mine = [task for task in tasks if task.item % here.share[1] == here.share[0]]
        with (
            one_thread_if_tiny(self.lens),
            closing(encoding_of(self.workers, self.record, here.layers, run, mine)) as encoding,
            StoreWriter(folder, here.writers, encoding) as writer,
        ):
            run_id, is_new = here.everyone.broadcast(_open_run(writer, run, here))
            if self.monitor is not None and here.everyone.rank == 0:
                writer.replace_rows(run_id, "probes", [_said_of(self.monitor)])
            acting = Attached(self.lens, [self.interventions]) if self.interventions else None
            left = batches(mine, self.batch_size)
            if not is_new:
                left = unfinished_batches(folder, run_id, left)
            done = len(mine) - sum(not task.finished for batch in left for task in batch)
            device = self.lens.device.type
            # Of problems that are shared out, what others have left is not known here.
            ahead = tasks if here.share[1] > 1 else [task for batch in left for task in batch]
            self._foretell(writer, ahead, here)
            with Recording(
                writer,
                run_id,
                here.writers,
                self.commit_every,
                device,
                self.allow_nonfinite,
                self.following,
                self.on_stored,
            ) as recording:
                report = _Reporter(recording, len(mine), done, on_progress, self.following)
                observer = Observer(
                    self.lens,
                    self.record,
                    here,
                    recording,
                    report.forward,
                    self.prefill,
                    self.following,
                    acting,
                    judge,
                )
                with gone_peers(here.everyone.rank), _attached(acting):
                    is_whole = self._run_batches(observer, left, run_batch, report)
            report.show()
            if acting is not None:  # the recording thread sends no messages any more
                join = of_shards if here.writers.size > 1 else of_shares
                settle(acting.effect, here.everyone, join)
            if not is_whole:
                return Store(folder)
            here.everyone.gather(None)  # all have committed what was theirs
            if here.writers.size > 1:
                writer.finish_run(run_id)  # together: small files are left to `ringlens compact`
            elif here.everyone.rank == 0:
                writer.finish_run(run_id)
                tidy(writer.rewriter(), run_id)
        return Store(folder)

    def _foretell(self, writer: StoreWriter, tasks: Sequence[Task], here: RankRole) -> None:
        """Say what the traces that are left will take; once, whatever number of processes."""
        if here.everyone.rank == 0:
            folder = writer.folder.path if writer.folder.is_local else None
            lengths = [task.limit for task in tasks]
            plan = forecast(self.record, self.lens.sizes, lengths)
            encoded = str(writer.encoding)
            say(plan, self.record, folder, chosen=self.chosen, encoded=encoded)

    def _judge(self) -> Judge | None:
        """The monitor at work, if there is one.

        Raises:
            ConfigError: Its scores are to be recorded, and there is none.
        """
        if self.monitor is not None:
            return Judge(self.lens, self.monitor)
        if NAME in self.record:
            raise ConfigError(
                f"{NAME} are recorded of a capture with a monitor; give one (monitor=…, --monitor)."
            )
        return None

    def _run_batches(
        self,
        observer: Observer,
        batches: Sequence[Sequence[Task]],
        run_batch: RunBatch,
        report: _Reporter,
    ) -> bool:
        """Run batches until the caller stops it; whether that was all of them."""
        for batch in batches:
            if self.following is not None and self.following.stops:
                return False
            run_batch(observer, batch)
            report.show()
        return True


def _listed(record: Iterable[Recorded] | Recorded) -> tuple[Recorded, ...]:
    """What is to be recorded, one or several, as several."""
    return (record,) if isinstance(record, REQUESTS) else tuple(record)


def _said_of(monitor: Monitor) -> dict[str, object]:
    """The row of ``probes`` that says which monitor a run has."""
    return {"probe": MONITOR, "key": SETTINGS, "json": json.dumps(monitor.facts, sort_keys=True)}


def _attached(acting: Attached | None) -> AbstractContextManager[object]:
    """Interventions, if there are any, attached for as long as the block runs."""
    return nullcontext() if acting is None else acting.attached()


def _open_run(writer: StoreWriter, run: RunRecord, here: RankRole) -> tuple[str, bool]:
    """The id of the run, one that the same call left unfinished or a new one; whether it is new."""
    if here.writers.size < here.everyone.size and here.everyone.rank > 0:
        return "", True  # processes with models of their own: rank 0 opens the run for all
    left = writer.unfinished(run.fingerprint)
    if left is None:
        _refuse_other_interventions(writer, run)
        return writer.start_run(run), True
    log.info("taking up run %s, which was interrupted", left)
    writer.resume(left)
    return left, False


def _refuse_other_interventions(writer: StoreWriter, run: RunRecord) -> None:
    """Refuse to begin what an interrupted run began with other interventions.

    Raises:
        ConfigError: There is such a run.
    """
    base = run.fingerprint.partition(WITH)[0]
    others = [run_id for run_id in writer.interrupted(base) if run_id]
    if others:
        with Store(writer.folder.address) as store:
            query = "select interventions from runs where run_id = ?"
            ((acts,),) = store.sql(query, [others[0]]).fetchall()
        now = ", ".join(run.interventions) or "none"
        raise ConfigError(
            f"run {others[0]} of this store is the same call with other interventions "
            f"({', '.join(acts or ()) or 'none'} in place of {now}), and was interrupted. Finish "
            f"it with the same call and its own ones, take it out with `ringlens delete STORE "
            f"--run {others[0]}`, or use another store."
        )


class _Reporter:
    """Tells the caller how far the session is, in the caller's thread."""

    def __init__(
        self,
        recording: Recording,
        total: int,
        done: int,
        on_progress: OnProgress | None,
        following: Following | None,
    ) -> None:
        self.recording, self.done, self.on_progress = recording, done, on_progress
        self.following = following
        self.progress = Progress(done, total)

    def forward(self, B: int, T: int) -> None:
        """A forward over [B, T] tokens begins."""
        self.recording.check()
        self.show()

    def show(self) -> None:
        """Report what the recording has done by now."""
        if self.following is not None:
            self.following.tell()
        if self.on_progress is None:
            return
        recording = self.recording
        self.progress = replace(
            self.progress,
            traces=self.done + recording.traces,
            tokens=recording.tokens,
            bytes_written=recording.bytes_written,
            waited=recording.waited,
        )
        self.on_progress(self.progress)


@contextmanager
def one_thread_if_tiny(lens: LoadedModel) -> Iterator[None]:
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
