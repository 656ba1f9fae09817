"""A label of an expert, made by rules, with its score in traces that it was not made from.

A rule names values of one kind, such as three words or two token classes, and says that tokens of
these choose the expert. On one half of the traces the rule is chosen, on the other it is scored.
No language model takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.analysis.experts.label_score import LabelScore, label_score
from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.selection import read
from ringlens.display import plural, quoted

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

WORDS = 8
"""Most values of a rule: a label is to be read."""

LEAST = 10
"""Fewest occurrences of a value in the traces that a rule is chosen on, and fewest scored contexts
of either sort."""

CONTEXTS = 500
"""Most contexts that chose the expert among those that are scored."""

CHANCE = 2 / 3
"""F1 of a label that fits everything, where half of the contexts chose the expert."""

_CLASS = r"""case
    when text = '' then 'empty'
    when regexp_full_match(text, '<[^ ]+>') then 'special token'
    when text like '%' || chr(10) || '%' then 'line break'
    when regexp_full_match(text, '\s+') then 'space'
    when regexp_full_match(text, '\s*\p{N}+') then 'number'
    when regexp_full_match(text, '\s*[+*/=<>^×÷−-]+') then 'operator'
    when regexp_full_match(text, '\s*[\p{P}\p{S}]+') then 'punctuation'
    when regexp_full_match(text, '\s+\p{Lu}.*') then 'capitalised word'
    when regexp_full_match(text, '\s+\p{L}.*') then 'word'
    when regexp_full_match(text, '\p{L}.*') then 'piece of a word'
    else 'other' end"""

KINDS = {
    "word": "text",
    "word before": "before",
    "token class": _CLASS,
    "phase": "phase",
    "token class in a phase": f"{_CLASS} || ' in ' || phase",
    "step role": "role",
    "task": "task",
}
"""What rules are made of, as SQL over a token with its context; of two that are equally good the
first is taken."""

_SAYS = {
    "word": "the word{s} {values}",
    "word before": "after the word{s} {values}",
    "token class": "tokens of class {values}",
    "phase": "the phase{s} {values}",
    "token class in a phase": "tokens of class {values}",
    "step role": "steps of role {values}",
    "task": "the task{s} {values}",
}


@dataclass(frozen=True)
class ExpertLabel:
    """What an expert is for, in words, and how far that can be trusted.

    Attributes:
        kind: What the rule is made of, one of `KINDS`; "" if no rule tells its contexts apart.
        values: The values that it names, the most telling first.
        trained: Its score on the traces that it was chosen on; None without a rule.
        score: Its score on contexts of other traces, half of which chose the expert; a label that
            fits everything has an F1 of 2/3. None where there is none.
        contexts: Number of contexts that are scored.
        traces: Number of traces that the rule was chosen on, and of those it was scored on.
        reason: Why there is no score; "" if there is one.
    """

    kind: str
    values: tuple[str, ...]
    trained: LabelScore | None
    score: LabelScore | None
    contexts: int
    traces: tuple[int, int]
    reason: str

    @property
    def text(self) -> str:
        """The label in words."""
        if not self.kind:
            return "no rule tells its contexts apart"
        values = ", ".join(quoted(value, 24) for value in self.values)
        return _SAYS[self.kind].format(s="s" if len(self.values) > 1 else "", values=values)

    @property
    def scored(self) -> str:
        """Its score in words, or why there is none."""
        if self.score is None:
            return f"not scored: {self.reason}"
        score = self.score
        return (
            f"F1 {score.f1:.2f} (precision {score.precision:.2f}, recall {score.recall:.2f}, "
            f"accuracy {score.accuracy:.2f}) on {plural(self.contexts, 'context')} of "
            f"{plural(self.traces[1], 'held-out trace')}, half of which chose it; a label that "
            f"fits everything reaches {CHANCE:.2f}"
        )


def expert_label(
    store: Source, layer: int, expert: int, where: str | None = None, seed: int = 0
) -> ExpertLabel:
    """Choose the rule that best tells an expert's contexts from others, and score it elsewhere.

    The best rule is the one with the highest mean of its shares right among tokens that chose the
    expert and among those that did not. Its values are those that tokens of the first sort have
    more often; `WORDS` at most, and each `LEAST` times or more. Samples of one problem share its
    prompt: name a phase in ``where`` if what is learned of one half's prompts should not help with
    the other's.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.
        seed: Seed of the halves, and of the contexts that are scored.
    """
    tokens = _tokens(store, layer, expert, where)
    query = f"select distinct trace_id from {tokens} order by all"
    traces = [trace for (trace,) in store.sql(query).fetchall()]
    shuffled = np.random.default_rng(seed).permutation(np.array(traces, np.int64)).tolist()
    half = (len(shuffled) + 1) // 2
    training, held_out = shuffled[:half], shuffled[half:]
    rule = _best(_counted(store, tokens, training))
    halves = (len(training), len(held_out))
    if rule is None:
        reason = "no word, class, phase or role comes with it more often than without it"
        return ExpertLabel("", (), None, None, 0, halves, reason)
    kind, values = rule
    trained, _ = _score(store, tokens, training, kind, values, seed)
    if not held_out:
        reason = "there is one trace; what was learned from it needs another to be held against"
        return ExpertLabel(kind, values, trained, None, 0, halves, reason)
    score, contexts = _score(store, tokens, held_out, kind, values, seed)
    reason = (
        ""
        if score
        else (f"the held-out traces have fewer than {LEAST} tokens that chose it, or that did not")
    )
    return ExpertLabel(kind, values, trained, score, contexts, halves, reason)


def _tokens(store: Source, layer: int, expert: int, where: str | None) -> str:
    """SQL of the tokens of a layer with their context, and whether they chose the expert."""
    selection = read(store, where, ("phase", "role", "task", "text"))
    return f"""(
    select found.*, list_contains(expert_ids, {expert}) as chosen, earlier.text as before
    from {chosen_tokens(selection)} as found
    left join tokens as earlier
        on earlier.trace_id = found.trace_id and earlier.pos = found.pos - 1
    where layer = {layer})"""


def _counted(store: Source, tokens: str, traces: list[int]) -> pd.DataFrame:
    """How often each value comes with and without the expert in some traces."""
    pairs = ", ".join(f"{{kind: '{kind}', value: {sql}}}" for kind, sql in KINDS.items())
    query = f"""
select pair.kind as kind, pair.value as value, count_if(chosen) as n, count_if(not chosen) as others
from (select chosen, unnest([{pairs}]) as pair from {tokens}
      where trace_id in (select unnest($traces)))
where pair.value is not null group by all order by all"""
    return store.sql(query, {"traces": traces}).df()


def _best(counts: pd.DataFrame) -> tuple[str, tuple[str, ...]] | None:
    """The kind and the values of the rule that tells contexts apart best."""
    of_phase = counts[counts["kind"] == "phase"]  # every token has one
    chosen, others = of_phase["n"].sum(), of_phase["others"].sum()
    if not chosen or not others:
        return None
    counts = counts[counts["n"] + counts["others"] >= LEAST].copy()
    counts["tells"] = counts["n"] / chosen - counts["others"] / others
    best, most = None, 0.0
    for kind in KINDS:
        found = counts[(counts["kind"] == kind) & (counts["tells"] > 0)]
        found = found.sort_values(["tells", "value"], ascending=[False, True]).head(WORDS)
        if (sum_of := float(found["tells"].sum())) > most + 1e-9:
            best, most = (kind, tuple(found["value"])), sum_of
    return best


def _score(
    store: Source, tokens: str, traces: list[int], kind: str, values: tuple[str, ...], seed: int
) -> tuple[LabelScore | None, int]:
    """Score of a rule on contexts of some traces, and their number; None if there are too few."""
    query = f"""
select chosen, {KINDS[kind]} as value from {tokens} where trace_id in (select unnest($traces))
qualify row_number() over (partition by chosen order by hash(trace_id, pos, {seed}), trace_id, pos)
    <= least(count_if(chosen) over (), count_if(not chosen) over (), {CONTEXTS})"""
    rows = store.sql(query, {"traces": traces}).fetchall()
    if len(rows) < 2 * LEAST:
        return None, 0
    named = set(values)
    return label_score([value in named for _, value in rows], [c for c, _ in rows]), len(rows)
