"""A label of an expert, made by rules, with its score in traces that it was not made from.

A rule is a clause, or two of which either may hold: a clause names values of one kind, such as
three words or two token classes, and says that tokens of these choose the expert. On one half of
the problems, or of the traces if they are of none, the rule is chosen; on the other it is scored.
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

VALUES, CLAUSES = 8, 2
"""Most values of a clause, and clauses of a rule: a label is to be read."""

GAIN = 0.01
"""Least part of the contexts that a second clause must tell beyond the first."""

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
"""What clauses are made of, as SQL over a token with its context; of two that are equally good the
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


PROBLEM, TRACE = "problem", "trace"

_APART = {PROBLEM: "of other problems", TRACE: "split by trace, not by problem"}


@dataclass(frozen=True)
class Clause:
    """Values of one kind.

    Attributes:
        kind: One of `KINDS`.
        values: The values, the most telling first.
    """

    kind: str
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        """The clause in words."""
        values = ", ".join(quoted(value, 24) for value in self.values)
        return _SAYS[self.kind].format(s="s" if len(self.values) > 1 else "", values=values)


@dataclass(frozen=True)
class ExpertLabel:
    """What an expert is for, in words, and how far that can be trusted.

    Attributes:
        rule: Clauses of which one holds where the expert is chosen; none if nothing tells its
            contexts apart.
        trained: Its score on the traces that it was chosen on; None without a rule.
        score: Its score on contexts of other traces, half of which chose the expert; a label that
            fits everything has an F1 of 2/3. None where there is none.
        contexts: Number of contexts that are scored.
        traces: Number of traces that the rule was chosen on, and of those it was scored on.
        split: What lies on one side as a whole: "problem", all traces of one, or "trace".
        reason: Why there is no score; "" if there is one.
    """

    rule: tuple[Clause, ...]
    trained: LabelScore | None
    score: LabelScore | None
    contexts: int
    traces: tuple[int, int]
    split: str
    reason: str

    @property
    def text(self) -> str:
        """The label in words."""
        clauses = " or ".join(clause.text for clause in self.rule)
        return clauses or "no rule tells its contexts apart"

    @property
    def scored(self) -> str:
        """Its score in words, or why there is none."""
        if self.score is None:
            return f"not scored: {self.reason}"
        score = self.score
        return (
            f"F1 {score.f1:.2f} (precision {score.precision:.2f}, recall {score.recall:.2f}, "
            f"accuracy {score.accuracy:.2f}) on {plural(self.contexts, 'context')} of "
            f"{plural(self.traces[1], 'held-out trace')} {_APART[self.split]}, half of which chose "
            f"it; a label that fits everything reaches {CHANCE:.2f}"
        )


def expert_label(
    store: Source, layer: int, expert: int, where: str | None = None, seed: int = 0
) -> ExpertLabel:
    """Choose the rule that best tells an expert's contexts from others, and score it elsewhere.

    The best clause is the one with the highest mean of its shares right among tokens that chose the
    expert and among those that did not. Its values are those that tokens of the first sort have
    more often; `VALUES` at most, and each `LEAST` times or more. A second clause is chosen in the
    same way among the tokens that the first leaves, and kept if it tells `GAIN` more of them.
    Samples of one problem share its prompt, so all of them lie in one half. Where no trace has a
    problem, or all have the same, traces are divided, and ``split`` says so.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.
        seed: Seed of the halves, and of the contexts that are scored.
    """
    tokens = _tokens(store, layer, expert, where)
    training, held_out, split = _halves(store, tokens, seed)
    rule = _rule(store, tokens, training)
    halves = (len(training), len(held_out))
    if not rule:
        reason = "no word, class, phase or role comes with it more often than without it"
        return ExpertLabel((), None, None, 0, halves, split, reason)
    trained, _ = _score(store, tokens, training, rule, seed)
    if not held_out:
        reason = "there is one trace; what was learned from it needs another to be held against"
        return ExpertLabel(rule, trained, None, 0, halves, split, reason)
    score, contexts = _score(store, tokens, held_out, rule, seed)
    reason = (
        ""
        if score
        else f"the held-out traces have fewer than {LEAST} tokens that chose it, or that did not"
    )
    return ExpertLabel(rule, trained, score, contexts, halves, split, reason)


def _halves(store: Source, tokens: str, seed: int) -> tuple[list[int], list[int], str]:
    """Divide the traces of some tokens into two halves, and say what was not torn apart."""
    query = f"""
select trace_id, problem_id from traces
where trace_id in (select trace_id from {tokens}) order by trace_id"""
    rows = store.sql(query).fetchall()
    problems = {problem for _, problem in rows if problem is not None}
    split = PROBLEM if len(problems) > 1 else TRACE
    of_unit: dict[tuple[str, object], list[int]] = {}
    for trace, problem in rows:
        whole = split == PROBLEM and problem is not None
        unit = (PROBLEM, problem) if whole else (TRACE, trace)
        of_unit.setdefault(unit, []).append(trace)
    units = list(of_unit.values())
    order = np.random.default_rng(seed).permutation(len(units))
    half = (len(units) + 1) // 2
    training, held_out = (
        [trace for unit in part for trace in units[unit]] for part in (order[:half], order[half:])
    )
    return training, held_out, split


def _tokens(store: Source, layer: int, expert: int, where: str | None) -> str:
    """SQL of the tokens of a layer with their context, and whether they chose the expert."""
    selection = read(store, where, ("phase", "role", "task", "text"))
    return f"""(
    select found.*, list_contains(expert_ids, {expert}) as chosen, earlier.text as before
    from {chosen_tokens(selection)} as found
    left join tokens as earlier
        on earlier.trace_id = found.trace_id and earlier.pos = found.pos - 1
    where layer = {layer})"""


def _rule(store: Source, tokens: str, traces: list[int]) -> tuple[Clause, ...]:
    """The clauses that tell contexts of some traces apart best."""
    query = f"""
select count_if(chosen), count_if(not chosen) from {tokens}
where trace_id in (select unnest($traces))"""
    ((chosen, others),) = store.sql(query, {"traces": traces}).fetchall()
    rule: tuple[Clause, ...] = ()
    while len(rule) < CLAUSES and chosen and others:
        clause, tells = _best(_counted(store, tokens, traces, rule), chosen, others)
        if clause is None or (rule and tells < 2 * GAIN):
            break
        rule = (*rule, clause)
    return rule


def _matches(rule: tuple[Clause, ...]) -> tuple[str, dict[str, object]]:
    """SQL of whether a rule holds for a token, and its parameters."""
    clauses = [
        f"coalesce({KINDS[clause.kind]} in (select unnest($values_{place})), false)"
        for place, clause in enumerate(rule)
    ]
    values: dict[str, object] = {}
    values |= {f"values_{place}": list(clause.values) for place, clause in enumerate(rule)}
    return " or ".join(clauses) or "false", values


def _counted(
    store: Source, tokens: str, traces: list[int], rule: tuple[Clause, ...]
) -> pd.DataFrame:
    """How often each value comes with and without the expert where a rule does not hold."""
    pairs = ", ".join(f"{{kind: '{kind}', value: {sql}}}" for kind, sql in KINDS.items())
    matches, values = _matches(rule)
    query = f"""
select pair.kind as kind, pair.value as value, count_if(chosen) as n, count_if(not chosen) as others
from (select chosen, unnest([{pairs}]) as pair from {tokens}
      where trace_id in (select unnest($traces)) and not ({matches}))
where pair.value is not null group by all order by all"""
    return store.sql(query, {"traces": traces, **values}).df()


def _best(counts: pd.DataFrame, chosen: int, others: int) -> tuple[Clause | None, float]:
    """The clause that tells contexts apart best, and how well: its shares of both sorts, apart."""
    counts = counts[counts["n"] + counts["others"] >= LEAST].copy()
    counts["tells"] = counts["n"] / chosen - counts["others"] / others
    best, most = None, 0.0
    for kind in KINDS:
        found = counts[(counts["kind"] == kind) & (counts["tells"] > 0)]
        found = found.sort_values(["tells", "value"], ascending=[False, True]).head(VALUES)
        if (sum_of := float(found["tells"].sum())) > most + 1e-9:
            best, most = Clause(kind, tuple(found["value"])), sum_of
    return best, most


def _score(
    store: Source, tokens: str, traces: list[int], rule: tuple[Clause, ...], seed: int
) -> tuple[LabelScore | None, int]:
    """Score of a rule on contexts of some traces, and their number; None if there are too few."""
    matches, values = _matches(rule)
    query = f"""
select chosen, {matches} as predicted from {tokens} where trace_id in (select unnest($traces))
qualify row_number() over (partition by chosen order by hash(trace_id, pos, {seed}), trace_id, pos)
    <= least(count_if(chosen) over (), count_if(not chosen) over (), {CONTEXTS})"""
    rows = store.sql(query, {"traces": traces, **values}).fetchall()
    if len(rows) < 2 * LEAST:
        return None, 0
    return label_score([said for _, said in rows], [chosen for chosen, _ in rows]), len(rows)
