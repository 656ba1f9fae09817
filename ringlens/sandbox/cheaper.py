"""Names the view that answers a query from sums, where the query counts the routing itself."""

from __future__ import annotations

import re

_APART = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\busing\s*\([^)]*\)", re.DOTALL)
"""Comments, texts, and the columns of a join, which say nothing of what is asked."""

_ROUTING = {"routing", "router_choices"}
_SUMS = {"count", "sum", "avg", "mean", "group"}

# What a sum over tokens no longer knows.
_OF_A_TOKEN = {
    "pos", "rank", "affinity", "affinities", "margin", "group_margin", "group_flips", "entropy",
    "logprob", "token_id", "text", "turn", "logits",
}  # fmt: skip


def cheaper(query: str) -> str | None:
    """Name the view or table that could answer a query over the routing; None if none could.

    Goes by the words of the query, so it is a hint and no more.
    """
    words = set(re.findall(r"\w+", _APART.sub(" ", query.lower())))
    if not words & _ROUTING or not words & _SUMS or words & _OF_A_TOKEN:
        return None
    return "usage_traces" if "trace_id" in words else "expert_usage"
