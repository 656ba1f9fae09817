"""Everything that a store says of one expert, on one card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.experts import card_text
from ringlens.analysis.experts.contexts import heaviest_contexts
from ringlens.analysis.experts.expert_label import ExpertLabel, expert_label
from ringlens.analysis.experts.said import Said, labels_said
from ringlens.analysis.experts.token_experts import LEAST, token_experts
from ringlens.analysis.load.expert_load import expert_load
from ringlens.analysis.load.selection_causes import QUANTILES, displacements
from ringlens.analysis.selections.expert_counts import OWN_CHOICE, chosen_tokens
from ringlens.analysis.selections.selection import read
from ringlens.config import refuse_unknown, whole
from ringlens.display import spans
from ringlens.errors import NotInStoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@dataclass(frozen=True, eq=False, repr=False)
class ExpertCard:
    """One expert of a store.

    Attributes:
        layer: Its layer.
        expert: Its id.
        where: The tokens that the card is about; "true" for all.
        traces: Number of traces that they are of.
        load: A row per phase, as `expert_load` has it: ``n``, ``tokens``, ``share``, ``weight``,
            ``baseline`` and ``lift``.
        causes: A row per phase: ``n`` choices of it whose causes are known, those that
            interventions changed left out; the shares of these ``bias_flips`` (it would not be
            chosen with a bias of zero) and ``stand_ins`` (it stands in for an expert whose group
            was rejected); ``kept_out``, how often it was among the k best itself and its group was
            rejected; and ``margin_05``, ``margin_50``, ``margin_95``, quantiles of its own lead:
            its selection score minus that of the best expert that was not chosen (inf where
            nothing could have displaced it).
        displacements: A row per phase, ``event`` and ``other`` expert, most frequent first: it
            "stands in for" the other, or is "replaced by" it, ``n`` times; both by the group limit.
        tokens: Vocabulary specialisation as in `token_experts`, of words with 10 occurrences or
            more in a phase, the largest shares first.
        roles: A row per phase and step role: ``tokens``, ``n``, ``share`` = n / tokens, and
            ``lift`` over its share in all steps of the phase, and ``npmi`` = ln lift / −ln p(role,
            expert) (Bouma 2009): −1 never together, 0 independent, 1 always; empty where no steps
            are recorded.
        contexts: The tokens that it weighs most in, as `heaviest_contexts` gives them.
        label: What it is for, by rule.
        said: What people say that it is for, the latest first; it stands in front of the rule.
    """

    layer: int
    expert: int
    where: str
    traces: int
    load: pd.DataFrame
    causes: pd.DataFrame
    displacements: pd.DataFrame
    tokens: pd.DataFrame
    roles: pd.DataFrame
    contexts: pd.DataFrame
    label: ExpertLabel
    said: tuple[Said, ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """The card as one long table, a row per number; see `card_text.long`."""
        return card_text.long(self)

    def __repr__(self) -> str:
        return card_text.short(self)

    def __str__(self) -> str:
        return card_text.full(self)

    def _repr_html_(self) -> str:
        return card_text.html(self)


@refuse_unknown
def expert_card(
    store: Source,
    layer: int,
    expert: int,
    where: str | None = None,
    *,
    baseline: str | None = None,
    contexts: int = 8,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> ExpertCard:
    """Describe one expert: its load, why it is chosen, its words, roles and contexts, and a label.

    Args:
        store: The store.
        layer: A layer whose routing is recorded.
        expert: An expert of it.
        where: The tokens, a predicate over `token_context`; None for all. Phases are told apart.
        baseline: What the load is compared with, as in `expert_load`; None for even load.
        contexts: Most contexts that are shown.
        seed: Seed of the halves that the label is made from and scored on.
        engine: Counts the load of all layers, in this process or on a cluster; all else is of one
            layer, and is read here.

    Returns:
        The card. Its label is chosen on one half of the traces and scored on the other; with one
        trace there is no score, and it says why.

    Raises:
        ConfigError: A predicate or a number is wrong.
        StoreError: Nothing is selected, or runs with different routers.
        NotInStoreError: There is no such layer or expert.
    """
    layer, expert = whole("layer", layer, 0), whole("expert", expert, 0)
    most = whole("contexts", contexts, 1, 1_000)
    seed = whole("seed", seed, 0)
    load = expert_load(store, where, "phase", baseline=baseline, engine=engine)
    mine = _mine(load, layer, expert)
    pairs = displacements_of(store, layer, expert, where)
    return ExpertCard(
        layer=layer,
        expert=expert,
        where=load.attrs["where"],
        traces=load.attrs["traces"],
        load=mine,
        causes=causes_of(store, layer, expert, where, mine["phase"], pairs),
        displacements=pairs,
        tokens=token_experts(store, where, "phase", layer=layer, expert=expert, least=LEAST),
        roles=roles_of(store, layer, expert, where),
        contexts=heaviest_contexts(store, layer, expert, where, most),
        label=expert_label(store, layer, expert, where, seed),
        said=labels_said(store, layer, expert, where),
    )


def _mine(load: pd.DataFrame, layer: int, expert: int) -> pd.DataFrame:
    """Rows of one expert."""
    of_layer = load[load["layer"] == layer]
    if of_layer.empty:
        raise NotInStoreError(
            f"layer {layer} has no routing in the selection; layers "
            f"{spans(sorted(load['layer'].unique()))} have."
        )
    experts = int(of_layer["expert"].max()) + 1
    if expert >= experts:
        raise NotInStoreError(f"expert {expert} of {experts}; give one from 0 to {experts - 1}.")
    return of_layer[of_layer["expert"] == expert].reset_index(drop=True)


def displacements_of(
    store: Source, layer: int, expert: int, where: str | None = None
) -> pd.DataFrame:
    """Count whom an expert stands in for, and who is chosen in its place.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.

    Returns:
        The ``displacements`` of an `ExpertCard`.
    """
    selection = read(store, where, "phase")
    found = displacements(store, replace(selection, layers=(layer,)))
    events = [("stand_in", "expert", "stands in for"), ("expert", "stand_in", "replaced by")]
    parts = [
        found[found[mine] == expert].rename(columns={other: "other"}).assign(event=event)
        for mine, other, event in events
    ]
    frame = pd.concat(parts)[["phase", "event", "other", "n"]]
    return frame.sort_values("n", ascending=False, kind="stable", ignore_index=True)


def causes_of(
    store: Source,
    layer: int,
    expert: int,
    where: str | None,
    phases: pd.Series,
    pairs: pd.DataFrame,
) -> pd.DataFrame:
    """Measure why an expert was chosen, and by how much.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.
        phases: Phases that have a row.
        pairs: Its displacements, of `displacements_of`.

    Returns:
        The ``causes`` of an `ExpertCard`; ``attrs["sql"]`` gives all but the displacements.
    """
    selection = read(store, where, ("phase", "run_id"))
    columns = ("expert_ids", "affinities", "margin", "bias_flips", "own_ids")
    quantiles = ", ".join(
        f"quantile_disc(lead, {q}) as margin_{round(100 * q):02}" for q in QUANTILES
    )
    query = f"""
with biases as (
    select run_id, list(coalesce(bias, 0) order by expert) as bias
    from experts where layer = {layer} group by all),
scored as (
    select phase, list_contains(bias_flips, {expert}) as flipped, margin,
           list_transform(expert_ids, lambda e, i: affinities[i] + bias[e + 1]) as scores,
           list_position(expert_ids, {expert}) as rank
    from {chosen_tokens(selection, *columns)} join biases using (run_id)
    where layer = {layer} and margin is not null and list_contains(expert_ids, {expert})
        and {OWN_CHOICE}),
leads as (select phase, flipped, scores[rank] - list_min(scores) + margin as lead from scored)
select phase, count(*) as n, avg(flipped::int) as bias_flips, {quantiles}
from leads group by all order by all"""
    found = store.sql(query).df().set_index("phase")
    frame = found.reindex(phases).rename_axis("phase").reset_index()
    frame["n"] = frame["n"].fillna(0).astype("int64")
    times = {
        event: frame["phase"].map(pairs[pairs["event"] == event].groupby("phase")["n"].sum())
        for event in ("stands in for", "replaced by")
    }
    stood_in = times["stands in for"].fillna(0) / frame["n"].where(frame["n"] > 0)
    frame.insert(3, "stand_ins", stood_in)
    frame.insert(4, "kept_out", times["replaced by"].fillna(0).astype("int64"))
    frame.attrs["sql"] = query
    return frame


def roles_of(store: Source, layer: int, expert: int, where: str | None = None) -> pd.DataFrame:
    """Measure the load of an expert by step role.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.

    Returns:
        The ``roles`` of an `ExpertCard`; ``attrs["sql"]`` gives the same.
    """
    selection = read(store, where, ("phase", "role"))
    query = f"""
select phase, role, count(*) as tokens,
       count_if(list_contains(expert_ids, {expert}))::bigint as n,
       n / tokens as share,
       share / nullif(sum(n) over (partition by phase) / sum(tokens) over (partition by phase), 0)
           as lift,
       case when n > 0 then ln(lift) / -ln(n / sum(tokens) over (partition by phase)) else -1 end
           as npmi
from {chosen_tokens(selection)} where layer = {layer} and role is not null
group by phase, role order by phase, lift desc, role"""
    frame = store.sql(query).df()
    frame.attrs["sql"] = query
    return frame
