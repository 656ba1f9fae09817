"""Encodes the card of one expert: load, causes, words, roles, contexts, company, and ablations."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from ringlens import analysis
from ringlens.analysis.experts.contexts import heaviest_contexts
from ringlens.analysis.experts.expert_card import causes_of, displacements_of, roles_of
from ringlens.analysis.experts.expert_label import expert_label
from ringlens.analysis.experts.said import labels_said
from ringlens.analysis.experts.token_experts import LEAST
from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.selection import read
from ringlens.analysis.statistics.bootstrap import ratio_interval
from ringlens.app.shared.frames import records
from ringlens.app.shared.made import Made, made
from ringlens.app.shared.queries import Row, rows
from ringlens.store import Store
from ringlens.store.read.selection import Source
from ringlens.store.schema.captured import PHASES

WORDS = 24
"""Words of a phase that are sent."""

COMPANY = 24
"""Experts of each list that are sent for a phase."""

LOAD = ("phase", "n", "tokens", "share", "weight", "lift")
CAUSES = (
    *("phase", "n", "bias_flips", "stand_ins", "kept_out"),
    *("margin_05", "margin_50", "margin_95"),
)
TOKENS = ("phase", "text", "occurrences", "n", "share", "lift")
ROLES = ("phase", "role", "tokens", "n", "share", "lift", "npmi")
CONTEXTS = ("trace_id", "pos", "phase", "role", "weight", "before", "text", "after")


@dataclass(frozen=True)
class Asked:
    """Which expert a part is about, and of which tokens.

    Attributes:
        source: What is asked: the store, or one in the sandbox.
        store: The store, which the programs open.
        layer: The layer.
        expert: The expert.
        where: The tokens.
    """

    source: Source
    store: Store
    layer: int
    expert: int
    where: str

    @property
    def of(self) -> tuple[Source, int, int, str]:
        """Arguments of analyses of one expert."""
        return self.source, self.layer, self.expert, self.where

    def made(self, part: str, sql: str | None = None) -> Made:
        """Say how a part of the card is made."""
        program = (
            f"card = analysis.expert_card(store, {self.layer}, {self.expert}, {self.where!r})\n"
            f"found = card.{part}"
        )
        return made(self.store, sql, program, "ringlens.analysis")


def load(asked: Asked) -> Row:
    """Encode how much each phase uses it, and how many traces its tokens are of."""
    found = analysis.expert_load(asked.source, asked.where, "phase", draws=0)
    mine = found[(found["layer"] == asked.layer) & (found["expert"] == asked.expert)]
    return {
        "rows": records(mine, *LOAD),
        "traces": found.attrs["traces"],
        "made": asked.made("load", found.attrs["sql"]),
    }


def causes(asked: Asked) -> Row:
    """Encode why it was chosen, and whom the group limit set in its place."""
    selection = read(asked.source, asked.where, "phase")
    query = f"select distinct phase from {chosen_tokens(selection)} where layer = {asked.layer}"
    there = asked.source.sql(query).df()["phase"].tolist()
    phases = pd.Series([phase for phase in PHASES if phase in there], dtype=str)
    pairs = displacements_of(*asked.of)
    found = causes_of(*asked.of, phases, pairs)
    return {
        "rows": records(found, *CAUSES),
        "made": asked.made("causes", found.attrs["sql"]),
        "displacements": _by_phase(pairs, COMPANY),
        "made_displacements": asked.made("displacements"),
    }


def tokens(asked: Asked) -> Row:
    """Encode the words it serves."""
    found = analysis.token_experts(
        asked.source,
        asked.where,
        "phase",
        layer=asked.layer,
        expert=asked.expert,
        least=LEAST,
    )
    shown = _by_phase(found[list(TOKENS)], WORDS)
    return {"rows": shown, "made": asked.made("tokens", found.attrs["sql"])}


def roles(asked: Asked) -> Row:
    """Encode the roles of the steps that it works in."""
    found = roles_of(*asked.of)
    return {"rows": records(found, *ROLES), "made": asked.made("roles", found.attrs["sql"])}


def contexts(asked: Asked) -> Row:
    """Encode the places where it weighs most."""
    found = heaviest_contexts(*asked.of)
    return {
        "rows": records(found, *CONTEXTS),
        "made": asked.made("contexts", found.attrs["sql"]),
    }


def company(asked: Asked) -> Row:
    """Encode the experts that its tokens chose as well."""
    found = together(*asked.of)
    program = (
        f"pairs = analysis.coactivation(store, {asked.where!r})\n"
        f"found = pairs[(pairs.layer == {asked.layer}) & (pairs.expert == {asked.expert})]"
    )
    return {
        "rows": _by_phase(found, COMPANY),
        "made": made(asked.store, found.attrs["sql"], program, "ringlens.analysis"),
    }


def label(asked: Asked) -> Row:
    """Encode what it is for, and how far that holds elsewhere."""
    found = expert_label(*asked.of)
    score = found.score
    said = labels_said(*asked.of)
    return {
        "said": [{"label": each.label, "by": each.by} for each in said],
        "text": found.text,
        "f1": None if score is None else score.f1,
        "precision": None if score is None else score.precision,
        "recall": None if score is None else score.recall,
        "contexts": found.contexts,
        "traces": list(found.traces),
        "split": found.split,
        "reason": found.reason,
        "made": asked.made("label"),
    }


PARTS: Mapping[str, Callable[[Asked], Row]] = MappingProxyType(
    {
        "load": load,
        "causes": causes,
        "tokens": tokens,
        "roles": roles,
        "contexts": contexts,
        "company": company,
        "label": label,
    }
)
"""Parts of the card, each of which is asked for by itself."""


def together(source: Source, layer: int, expert: int, where: str) -> pd.DataFrame:
    """Count the experts that the tokens of one chose as well, on its layer.

    Returns:
        A row per phase and ``other`` expert: ``n`` tokens that chose both, ``share`` of those that
        chose the expert, and ``lift``, 1 if the two were independent; the largest lift first. The
        same as `ringlens.analysis.coactivation` has of it.
    """
    selection = read(source, where, "phase")
    query = f"""
with found as (select phase, expert_ids from {chosen_tokens(selection)} where layer = {layer}),
tokens as (select phase, count(*) as tokens,
                  count_if(list_contains(expert_ids, {expert}))::bigint as mine
           from found group by phase),
others as (select phase, unnest(expert_ids) as other,
                  list_contains(expert_ids, {expert}) as ours from found),
pairs as (select phase, other, count(*) as theirs, count_if(ours)::bigint as n
          from others
          where other <> {expert} group by all)
select phase, other, n, n / mine as share, n * tokens / (mine * theirs) as lift
from pairs join tokens using (phase) where n > 0
order by phase, lift desc, other"""
    frame = source.sql(query).df()
    frame.attrs["sql"] = query
    return frame


def ablation(store: Store, run_id: str, layer: int, expert: int) -> Row:
    """Encode what leaving the expert out did, where it was measured."""
    query = f"""
select trace_id, key, value from probes
where probe = 'ablation' and run_id = '{run_id}' and layer = {layer} and unit = {expert}
order by key, trace_id"""
    found = store.sql(query).df()
    if found.empty:
        (run,) = rows(store, "select model from runs where run_id = $run", {"run": run_id})
        return {
            "lacks": "What leaving it out does was not measured.",
            "command": f"ringlens ablate {shlex.quote(run['model'])} "
            f"{shlex.quote(store.address)} --layers {layer} --expert-ids {expert}",
        }
    rng = np.random.default_rng(0)
    effects = []
    for key, rows_of in found.groupby("key", sort=True):
        value_U = rows_of["value"].to_numpy(float)
        low = high = None
        if len(value_U) > 1:
            low, high = ratio_interval(value_U, np.ones(len(value_U)), rng)
        effects.append(
            {
                "key": key,
                "traces": len(value_U),
                "mean": float(value_U.mean()),
                "low": low,
                "high": high,
            }
        )
    return {
        "effects": effects,
        "made": made(store, query, f'found = store.sql("""{query}""").df()'),
    }


def _by_phase(frame: pd.DataFrame, most: int) -> list[dict[str, Any]]:
    """The first rows of each phase."""
    return records(frame.groupby("phase", sort=False).head(most))
