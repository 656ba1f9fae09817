"""Convenience views: usage of experts, traces, tokens with their context, annotations."""

from __future__ import annotations

from ringlens.store.schema.annotation import view as annotation
from ringlens.store.schema.views import ROUTER_CHOICES
from ringlens.store.schema.views_context import SOURCES, TOKEN_CONTEXT, TOKEN_CONTEXT_COLUMNS

# Lists are unnested once, side by side, and then summed, as parts of a trace have their own rows.
EXPERT_USAGE = """
create or replace view expert_usage as
with run_tokens as (
    select run_id, layer, phase, sum(tokens)::bigint as tokens
    from usage_traces group by all),
experts_of_trace as (
    select run_id, layer, phase, unnest(range(len(n))) as expert, unnest(n) as n,
           unnest(coalesce(weight, list_transform(n, lambda each: null::float))) as weight,
           unnest(coalesce(bias_flips, list_transform(n, lambda each: null::uinteger)))
               as bias_flips
    from usage_traces)
select run_id, layer, expert::usmallint as expert, phase, sum(n)::bigint as n,
       sum(n) / any_value(tokens) as share,
       sum(weight) / nullif(sum(n), 0) as mean_weight,
       sum(bias_flips)::bigint as bias_flips
from experts_of_trace join run_tokens using (run_id, layer, phase)
group by run_id, layer, expert, phase
"""

EXPERT_USAGE_COLUMNS = {
    "run_id": "run that wrote the row",
    "layer": "layer, 0 is the first",
    "expert": "expert id",
    "phase": "'prompt', 'think' or 'answer'",
    "n": "number of times the expert was chosen",
    "share": "n divided by the tokens of the run in this phase; k / E if all experts are used "
    "equally",
    "mean_weight": "mean routing weight when chosen; the weights of a token sum to "
    "runs.routed_scaling_factor; null in imported runs",
    "bias_flips": "number of times chosen only because of its selection bias; null in imported "
    "runs",
}
"""Columns of ``expert_usage`` and their meanings."""

TRACE_SUMMARY = """
create or replace view trace_summary as
with written as (
    select trace_id, avg(entropy) filter (phase <> 'prompt') as mean_entropy,
           avg(logprob) filter (phase <> 'prompt') as mean_logprob
    from tokens group by trace_id)
select trace_id, run_id, mode, model, dtype, runs.quantization, task, problem_id, sample, correct,
       answer, expected, n_prompt, n_think, n_answer, n_prompt + n_think + n_answer as tokens,
       mean_entropy, mean_logprob, finish_reason, started
from traces left join runs using (run_id) left join written using (trace_id)
"""

TRACE_SUMMARY_COLUMNS = {
    "trace_id": "trace, unique in the store",
    "run_id": "run that wrote the row",
    "mode": "'live', 'replay' or 'imported'",
    "model": "name or folder the model was loaded from",
    "dtype": "dtype of the weights",
    "quantization": "quantisation method",
    "task": "task of the problem",
    "problem_id": "problem, unique in its set",
    "sample": "number among the samples of the problem, from 0",
    "correct": "whether the answer passes the verifier",
    "answer": "the answer found in the text",
    "expected": "the expected answer",
    "n_prompt": "tokens of the prompt",
    "n_think": "tokens of the thinking phase",
    "n_answer": "tokens of the answer",
    "tokens": "all tokens of the trace",
    "mean_entropy": "mean entropy of the tokens that the model wrote, in nats",
    "mean_logprob": "mean log-probability of the tokens that the model wrote, in nats",
    "finish_reason": "how the trace ended",
    "started": "start of the run",
}
"""Columns of ``trace_summary`` and their meanings."""

VIEWS = (
    (
        "current_annotations",
        annotation.CURRENT_ANNOTATIONS,
        annotation.CURRENT_ANNOTATIONS_COLUMNS,
        annotation.SOURCES,
    ),
    ("expert_usage", EXPERT_USAGE, EXPERT_USAGE_COLUMNS, ("usage_traces",)),
    ("trace_summary", TRACE_SUMMARY, TRACE_SUMMARY_COLUMNS, ("traces", "tokens", "runs")),
    ("token_context", TOKEN_CONTEXT, TOKEN_CONTEXT_COLUMNS, SOURCES),
)
"""Name, SQL, columns and source tables of each view, after those that it reads."""

DERIVED = {
    "router_choices": (ROUTER_CHOICES, ("routing",)),
    **{name: (statement, sources) for name, statement, _, sources in VIEWS},
}
"""SQL and source tables of all views over tables, each after those that it reads."""
