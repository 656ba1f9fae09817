"""What happens without an expert: its effect on the loss and on the answer of stored texts.

The prompt of a trace is run once. Its cache then serves all experts: as many rows as fit a batch go
on with the same tokens, each without another expert, and one of them as the model is.

Shape letters: B rows, P tokens of the prompt, T tokens behind it, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ringlens.analysis.load.expert_importance import expert_importance
from ringlens.analysis.statistics.bootstrap import ratio_interval
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError, ObservationError, StoreError
from ringlens.interventions import Ablate
from ringlens.model.caching import CACHE
from ringlens.model.parallel import parallel_of
from ringlens.observe.interventions.attached import Attached
from ringlens.observe.interventions.resolve import resolve_rows
from ringlens.observe.pipeline.ranks import rank_role
from ringlens.observe.same_tokenizer import check_same_tokenizer
from ringlens.observe.session import one_thread_if_tiny
from ringlens.probes.sharing import shared_out
from ringlens.store import Store, StoreWriter

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

PROBE, LOSS, ANSWER = "ablation", "loss", "answer"
DRAWS = 1000

Expert = tuple[int, int]
"""A layer, and an expert of it."""

OnProgress = Callable[[int, int], None]
"""Called with the traces that are done, and how many there are."""


@dataclass(frozen=True)
class Measured:
    """What a model without an expert does on one trace.

    Attributes:
        loss: Rise of the mean loss of the tokens that were written, in nats.
        answer: Rise of the log-probability of the answer's tokens together, in nats; NaN of a trace
            without an answer.
    """

    loss: float
    answer: float


@refuse_unknown
def ablate(
    lens: LoadedModel,
    store: Store,
    *,
    layers: Iterable[int] | None = None,
    experts: Iterable[int] | None = None,
    traces: Iterable[int] | None = None,
    batch_size: int = 16,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Measure the effect of each expert on texts that the model wrote, and keep it in the store.

    An expert is kept from being chosen behind the prompt: its selection score is −∞, and the next
    best stands in. Results are committed trace by trace in the table ``probes``; what is there is
    not measured again, so that an interrupted call goes on where it was. Under torchrun or
    ``accelerate launch`` the processes share the traces out.

    Args:
        lens: The model that wrote the traces.
        store: The store, in a folder that can be written.
        layers: Sparse layers; None for all.
        experts: Experts of each; None for all.
        traces: Ids of live traces; None for all of the newest run with routing.
        batch_size: Rows side by side.
        on_progress: Called when a trace is done.

    Returns:
        The table of `effects`.

    Raises:
        ConfigError: The model has no such layer or expert, or the traces are of another model.
        ObservationError: The model is divided over processes.
        StoreError: There are no such traces, or the store cannot be written.
    """
    check_measurable(lens, store)
    asked = named_experts(lens, layers, experts)
    run_id, ids = live_traces(store, traces)
    batch = whole("batch_size", batch_size, 2)

    def measured(trace_id: int) -> list[dict[str, object]]:
        known = _known(store, run_id, trace_id)
        left = [each for each in asked if each not in known]
        if not left:
            return []
        told = _measure(lens, store, trace_id, [without([each]) for each in left], batch)
        return list(_rows(trace_id, known | dict(zip(left, told, strict=True))))

    here = rank_role(lens)
    with one_thread_if_tiny(lens), StoreWriter(store.address, here.everyone) as writer:
        done = 0
        for turn in shared_out(here, ids, measured):
            if rows := [row for found in turn.values() for row in found]:
                writer.replace_rows(run_id, "probes", rows)
            done += len(turn)
            if on_progress is not None:
                on_progress(done, len(ids))
    with Store(store.address) as after:
        return effects(after, run_id)


@refuse_unknown
def effects(store: Store, run_id: str | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Read what ablations did, beside what counting says.

    Args:
        store: The store.
        run_id: The run; None for the newest that has ablations.
        seed: Seed of the resampling.

    Returns:
        A row per layer and expert, the largest effect first: ``traces`` that it was measured on;
        ``loss``, the mean rise of the loss in nats a token, with its 95% interval over traces,
        ``low`` and ``high`` (NaN of one trace); ``answer``, the mean rise of the answer's
        log-probability; ``n`` and ``share``, how often it was chosen behind the prompt;
        ``rank_effect`` and ``rank_count`` within its layer, 1 the largest, and ``disagreement``,
        rank_count − rank_effect: far above 0 it matters more than its count says.
        ``attrs["agreement"]`` is the mean rank correlation of effect and count over layers.

    Raises:
        StoreError: Nothing was ablated.
    """
    found = store.sql(
        "select run_id, trace_id, layer, unit as expert, key, value from probes "
        f"where probe = '{PROBE}' order by run_id desc, layer, expert, key, trace_id"
    ).df()
    run = found["run_id"].max() if run_id is None else run_id
    found = found[found["run_id"] == run]
    if found.empty:
        raise StoreError("the store holds no ablations; measure some with ringlens ablate.")
    rng = np.random.default_rng(seed)
    rows = [
        {"layer": layer, "expert": expert, **_summed(part, rng)}
        for (layer, expert), part in found.groupby(["layer", "expert"])
    ]
    where = f"run_id = '{run}' and phase <> 'prompt'"
    counts = expert_importance(store, where)[["layer", "expert", "n", "share"]]
    frame = pd.DataFrame(rows).merge(counts, how="left", on=["layer", "expert"])
    by_layer = frame.groupby("layer")
    frame["rank_effect"] = by_layer["loss"].rank(ascending=False, method="first").astype(int)
    frame["rank_count"] = by_layer["n"].rank(ascending=False, method="first").astype(int)
    frame["disagreement"] = frame["rank_count"] - frame["rank_effect"]
    agreement = [
        part[["loss", "n"]].rank().corr().iloc[0, 1]
        for _, part in by_layer
        if len(part) > 2 and part["loss"].nunique() > 1 and part["n"].nunique() > 1
    ]
    frame = frame.sort_values("loss", ascending=False, kind="stable", ignore_index=True)
    frame.attrs |= {
        "run_id": run,
        "agreement": float(np.mean(agreement)) if agreement else float("nan"),
    }
    return frame


@refuse_unknown
def ablate_set(
    lens: LoadedModel,
    store: Store,
    experts: Sequence[Expert],
    *,
    traces: Iterable[int] | None = None,
    random_sets: int = 20,
    seed: int = 0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Measure what happens without several experts at once, beside random ones of equal load.

    Args:
        lens: The model that wrote the traces.
        store: The store.
        experts: Layers and experts, such as the top of a contrast.
        traces: Ids of live traces; None for all of the newest run with routing.
        random_sets: How many random sets. Each takes, for every expert, one of the eight of its
            layer whose counts behind the prompt are nearest to its own, none twice.
        seed: Seed of the draws.
        batch_size: Sets side by side.

    Returns:
        A row for the set, the first, and for each random one: ``set``, the experts as layer/expert;
        ``n``, the sum of their counts; ``loss``, the mean rise of the loss in nats a token, with
        its 95% interval over traces, ``low`` and ``high``; and ``answer``, the mean rise of the
        answer's log-probability. ``attrs["p"]`` is the share of random sets with at least the
        effect of the first on the loss, the first counted with them.

    Raises:
        ConfigError: The model has no such expert, or its layer too few others.
        ObservationError: The model is divided over processes.
        StoreError: There are no such traces.
    """
    check_measurable(lens, store)
    named = [(layer, expert) for layer, expert in dict.fromkeys(experts)]
    for layer, expert in named:
        named_experts(lens, [layer], [expert])
    run_id, ids = live_traces(store, traces)
    where = f"run_id = '{run_id}' and phase <> 'prompt'"
    count = expert_importance(store, where).set_index(["layer", "expert"])["n"]
    rng = np.random.default_rng(seed)
    drawn = [alike(named, count, rng) for _ in range(whole("random_sets", random_sets, 0))]
    sets, rows = [tuple(named), *drawn], whole("batch_size", batch_size, 2)
    acts = [without(each) for each in sets]

    def measured(trace_id: int) -> list[Measured]:
        return list(_measure(lens, store, trace_id, acts, rows))

    with one_thread_if_tiny(lens):
        turns = list(shared_out(rank_role(lens), ids, measured))
    told = [found for turn in turns for found in turn.values()]
    found = []
    for number, each in enumerate(sets):
        measured = pd.DataFrame(
            [(key, getattr(trace[number], key)) for trace in told for key in (LOSS, ANSWER)],
            columns=["key", "value"],
        ).dropna()
        names = " ".join(f"{layer}/{expert}" for layer, expert in each)
        facts = {"set": names, "n": int(sum(count[place] for place in each))}
        found.append({**facts, **_summed(measured, rng)})
    frame = pd.DataFrame(found)
    frame.attrs["p"] = float((frame["loss"] >= frame["loss"][0]).mean())
    return frame


def alike(
    experts: Sequence[Expert], count: pd.Series, rng: np.random.Generator
) -> tuple[Expert, ...]:
    """Draw other experts of the same layers with nearly the same counts.

    Raises:
        ConfigError: A layer has too few others.
    """
    taken, found = set(experts), []
    for layer, expert in experts:
        near = (count[layer] - count[layer, expert]).abs().sort_values(kind="stable")
        pool = [int(e) for e in near.index if (layer, int(e)) not in taken][:8]
        if not pool:
            raise ConfigError(
                f"layer {layer} has no other expert to compare {expert} with; name fewer."
            )
        found.append((layer, int(rng.choice(pool))))
        taken.add(found[-1])
    return tuple(found)


def without(experts: Iterable[Expert]) -> tuple[Ablate, ...]:
    """Keep experts from being chosen."""
    by_layer: dict[int, list[int]] = {}
    for layer, expert in experts:
        by_layer.setdefault(layer, []).append(expert)
    return tuple(Ablate(layer, ids) for layer, ids in by_layer.items())


def check_measurable(lens: LoadedModel, store: Store) -> None:
    """Refuse a model that is divided over processes, or a store of another tokenizer.

    Raises:
        ObservationError: It is divided.
        ConfigError: The store is of another model.
    """
    if parallel_of(lens.model).world_size > 1:
        raise ObservationError(
            "ablation takes a whole model in each process; load it with device_map='auto', or "
            "sequentially, and start several processes to share the traces out."
        )
    check_same_tokenizer(lens, store)


def named_experts(
    lens: LoadedModel, layers: Iterable[int] | None, experts: Iterable[int] | None
) -> list[Expert]:
    """List each of some experts of some layers; None for all.

    Raises:
        ConfigError: The model has no such layer or expert.
    """
    sparse, count = lens.sizes.sparse_layers, lens.router.experts
    chosen = sparse if layers is None else tuple(dict.fromkeys(layers))
    ids = range(count) if experts is None else tuple(dict.fromkeys(experts))
    wrong = [x for x in chosen if x not in sparse] or [e for e in ids if not 0 <= e < count]
    if wrong or not chosen or not ids:
        raise ConfigError(
            f"there is no layer or expert {wrong or 'named'}: {lens.name} routes in layers "
            f"{list(sparse)} to experts 0 to {count - 1}."
        )
    return [(layer, expert) for layer in chosen for expert in ids]


def live_traces(store: Store, traces: Iterable[int] | None) -> tuple[str, list[int]]:
    """Find the run of live traces, and these; None for all of the newest run with routing.

    Raises:
        StoreError: There are none, or they are of several runs.
    """
    asked = None if traces is None else [int(each) for each in traces]
    rows = store.sql(
        "select run_id, trace_id from traces join runs using (run_id) where mode = 'live' "
        "and list_contains(record, 'routing') and n_think + n_answer > 1 order by started, trace_id"
    ).fetchall()
    chosen = [row for row in rows if asked is None or row[1] in asked]
    run_id = chosen[-1][0] if chosen else None
    ids = [trace_id for run, trace_id in chosen if run == run_id]
    if not ids or (asked is not None and sorted(set(asked)) != sorted(ids)):
        raise StoreError(
            f"there are no live traces {asked or ''} of one run with routing: capture some, or "
            "name traces of one run."
        )
    assert run_id is not None
    return run_id, ids


def _known(store: Store, run_id: str, trace_id: int) -> dict[Expert, Measured]:
    """What an earlier call has measured of a trace."""
    rows = store.sql(
        "select layer, unit, max(value) filter (key = 'loss'), max(value) filter (key = 'answer') "
        f"from probes where probe = '{PROBE}' and run_id = ? and trace_id = ? group by all",
        [run_id, trace_id],
    ).fetchall()
    nan = float("nan")
    return {(la, e): Measured(loss, nan if told is None else told) for la, e, loss, told in rows}


def _rows(trace_id: int, found: dict[Expert, Measured]) -> Iterator[dict[str, object]]:
    """Rows of ``probes``."""
    for (layer, expert), each in sorted(found.items()):
        place = {"probe": PROBE, "trace_id": trace_id, "layer": layer, "unit": expert}
        yield {**place, "key": LOSS, "value": each.loss}
        if not np.isnan(each.answer):
            yield {**place, "key": ANSWER, "value": each.answer}


def _measure(
    lens: LoadedModel,
    store: Store,
    trace_id: int,
    acts: Sequence[Sequence[Ablate]],
    batch_size: int,
) -> Iterator[Measured]:
    """What each of some ablations does on one trace, in their order."""
    tokens = store.trace(trace_id).tokens()
    ids = torch.tensor([tokens["token_id"].tolist()], device=lens.device)
    phases = np.array(tokens["phase"])
    P = int(np.flatnonzero(phases != "prompt")[0])
    # The first written token is foretold by the prompt, which nothing changes.
    answer_T = torch.tensor((phases == "answer")[P + 1 :])
    B = min(batch_size, len(acts) + 1)
    with torch.inference_mode():
        cache = DynamicCache(config=lens.config)
        lens.model(ids[:, :P], **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(B)
        for start in range(0, len(acts), B - 1):
            part = acts[start : start + B - 1]
            rows: list[Sequence[Ablate]] = [(), *part, *([()] * (B - 1 - len(part)))]
            told_BT = _told(lens, ids[:, P:].expand(B, -1), cache, rows)
            rise_BT = (told_BT - told_BT[:1]).double().cpu()
            for rise_T in rise_BT[1 : len(part) + 1]:
                answer = float(rise_T[answer_T].sum()) if answer_T.any() else float("nan")
                yield Measured(-float(rise_T.mean()), answer)


def _told(
    lens: LoadedModel, ids_BT: Tensor, cache: DynamicCache, acts: Sequence[Sequence[Ablate]]
) -> Tensor:
    """Log-probability of each token but the first under each row's ablation, [B, T − 1]."""
    acting = Attached(lens, resolve_rows(lens, acts), by_row=True)
    with acting.attached():
        logits_BTV = lens.model(ids_BT, **{CACHE: cache}, use_cache=True).logits
    cache.crop(-ids_BT.shape[1])
    told_BTV = logits_BTV[:, :-1].float().log_softmax(dim=-1)
    return told_BTV.gather(-1, ids_BT[:, 1:, None]).squeeze(-1)


def _summed(part: pd.DataFrame, rng: np.random.Generator) -> dict[str, object]:
    """Means of one expert over traces, and the interval of its effect on the loss."""
    loss_U = part[part["key"] == LOSS]["value"].to_numpy()
    answer_U = part[part["key"] == ANSWER]["value"].to_numpy()
    low = high = float("nan")
    if len(loss_U) > 1:
        low, high = ratio_interval(loss_U, np.ones(len(loss_U)), rng, DRAWS)
    return {
        "traces": len(loss_U),
        "loss": float(loss_U.mean()),
        "low": low,
        "high": high,
        "answer": float(answer_U.mean()) if len(answer_U) else float("nan"),
    }
