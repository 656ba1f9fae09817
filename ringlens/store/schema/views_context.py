"""The view that selections are made over: each token with what is known of its surroundings."""

from __future__ import annotations

# Steps come in order, so the step of a token is the last one with tokens that began before. Labels
# are joined to steps and to traces, of which there are few: joined to tokens they make a query that
# does not ask for them take three times as long.
TOKEN_CONTEXT = """
create or replace view token_context as
with labels as not materialized (
    select kind, trace_id, step, string_agg(distinct label, ', ' order by label) as label
    from current_annotations where label is not null and kind <> 'expert' group by all),
of_traces as (
    select traces.*, labels.label as trace_label from traces left join labels
    on kind = 'trace' and traces.trace_id = labels.trace_id),
of_steps as (
    select steps.*, labels.label as label from steps left join labels
    on kind = 'step' and steps.trace_id = labels.trace_id and steps.step = labels.step
    where token_end > token_start)
select t.trace_id, pos, of_traces.run_id, model, mode,
       array_to_string(interventions, ' ') as interventions, task, problem_id, correct,
       finish_reason, phase, turn, pos / (n_prompt + n_think + n_answer) as rel_pos,
       case when pos < token_end then step end as step,
       case when pos < token_end then role end as role,
       case when pos < token_end then is_backtrack end as is_backtrack,
       case when pos < token_end then is_hypothesis end as is_hypothesis,
       case when pos < token_end then label end as label, trace_label,
       token_id, t.text as text, entropy, logprob
from tokens as t join of_traces using (trace_id)
left join runs on runs.run_id = of_traces.run_id
asof left join of_steps on t.trace_id = of_steps.trace_id and t.pos >= of_steps.token_start
"""

TOKEN_CONTEXT_COLUMNS = {
    "trace_id": "trace, unique in the store",
    "pos": "token position in the trace",
    "run_id": "run that wrote the trace",
    "model": "name or folder the model was loaded from",
    "mode": "'live', 'replay' or 'imported'",
    "interventions": "what was changed in the model while it ran, as 'ablate:5/3+7@think'; null "
    "for nothing",
    "task": "task of the problem",
    "problem_id": "problem, unique in its set",
    "correct": "whether the trace's answer passes the verifier; null without one",
    "finish_reason": "how the trace ended",
    "phase": "'prompt', 'think' or 'answer'",
    "turn": "turn of the conversation, 0 is the first",
    "rel_pos": "pos divided by the tokens of the trace, from 0 to below 1",
    "step": "step of the thought that the token belongs to; null outside steps, and before the "
    "trace is cut into steps",
    "role": "function of that step, for example 'self_checking'",
    "is_backtrack": "whether that step abandons an earlier attempt",
    "is_hypothesis": "whether that step proposes something to try",
    "label": "labels that people gave that step, joined by commas; null without one",
    "trace_label": "labels that people gave the trace as a whole",
    "token_id": "id in the model's vocabulary",
    "text": "the token's text",
    "entropy": "entropy of the distribution the token was drawn from, in nats",
    "logprob": "ln p(token | before), in nats",
}
"""Columns of ``token_context`` and their meanings."""

SOURCES = ("tokens", "traces", "runs", "steps", "annotations")
"""Tables that the view reads."""
