"""Queries that come with the SQL page: a question each, and how its answer is best drawn.

Those over all of a store rest on sums (``expert_usage``, ``head_blocks``), so that they answer in
a second where the routing itself has 10⁸ rows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question, the query that answers it, and its chart: kind, x, y, and what tells lines apart.

    ``chart`` is None where a table says it best.
    """

    question: str
    query: str
    chart: tuple[str, str, str, str] | None = None


EXAMPLES = (
    Example(
        "Which experts does it lean on while it thinks?",
        """
select layer, expert, sum(n) as n, round(sum(n * mean_weight) / sum(n), 3) as mean_weight
from expert_usage
where phase = 'think' and n > 0
group by layer, expert
order by sum(n) desc
limit 50""",
        ("scatter", "n", "mean_weight", "layer"),
    ),
    Example(
        "How unsure was it along the way?",
        """
-- Mean entropy of the next token, over windows of eight tokens.
select trace_id, pos // 8 * 8 as pos, round(avg(entropy), 3) as entropy
from tokens
where phase = 'think' and trace_id in (select trace_id from traces order by trace_id limit 4)
group by all
order by all""",
        ("line", "pos", "entropy", "trace_id"),
    ),
    Example(
        "How often did the bias, not the affinity, decide?",
        """
select layer, round(100 * sum(bias_flips) / sum(n), 2) as percent_by_bias
from expert_usage
group by layer
order by layer""",
        ("bar", "layer", "percent_by_bias", ""),
    ),
    Example(
        "Do wrong answers take longer?",
        """
select trace_id, task, coalesce(correct::varchar, 'not judged') as correct, n_think, finish_reason
from traces
order by n_think desc""",
        ("histogram", "n_think", "", "correct"),
    ),
    Example(
        "Where was it least sure of the next word?",
        """
select trace_id, pos, text, round(entropy, 2) as entropy, round(exp(logprob), 3) as probability
from tokens
where phase = 'think'
order by tokens.entropy desc
limit 50""",
    ),
    Example(
        "Which experts work for the answer, not the thought?",
        """
-- Of its choices outside the prompt: the part in the answer, above the mean of all experts.
with used as (
    select layer, expert, sum(n) as n, sum(n * (phase = 'answer')::int) as answer
    from expert_usage where phase <> 'prompt'
    group by layer, expert having sum(n) > 20)
select layer, expert, answer / n - avg(answer / n) over () as leaning, n
from used
order by leaning desc
limit 40""",
        ("scatter", "n", "leaning", "layer"),
    ),
    Example(
        "How much do heads look at the first token?",
        """
with each as (
    select layer, n, unnest(range(len(first_weight_mean))) as head,
           unnest(first_weight_mean) as attention
    from head_blocks)
select layer, head, round(sum(n * attention) / sum(n), 4) as mean_attention
from each
group by all
order by all""",
        ("scatter", "layer", "mean_attention", "head"),
    ),
)
