"""The view of the annotations that stand: neither corrected nor retracted."""

from __future__ import annotations

# Two who correct the same annotation at once both stand: neither replaces the other. An annotation
# of an expert is there twice between its move to another run and the deletion of its own.
CURRENT_ANNOTATIONS = """
create or replace view current_annotations as
with said as (
    select distinct on (annotation_id) * from annotations
    where not is_retraction and annotation_id not in
        (select supersedes from annotations where supersedes is not null))
select annotation_id,
       case when said.layer is not null then 'expert' when said.token_start is not null then 'step'
            else 'trace' end as kind,
       run_id, said.trace_id as trace_id, coalesce(now.step, said.step) as step,
       said.token_start as token_start, said.token_end as token_end,
       case when said.token_start is not null then
            (now.token_start, now.token_end) is distinct from (said.token_start, said.token_end)
       end as moved,
       layer, expert, label, note, author, source,
       make_timestamp(epoch_us(created)) as created, supersedes
from said left join steps as now
    on said.trace_id = now.trace_id
    and said.token_start >= now.token_start and said.token_start < now.token_end
"""

CURRENT_ANNOTATIONS_COLUMNS = {
    "annotation_id": "random, unique in all stores",
    "kind": "what it is about: 'trace', 'step' or 'expert'",
    "run_id": "run that the trace is of, or whose expert it is about",
    "trace_id": "trace; null for an expert",
    "step": "step that holds the first token that it is about, as steps are numbered now",
    "token_start": "position of the first token that it is about; null for a trace or an expert",
    "token_end": "position after the last",
    "moved": "whether the step has been cut anew since, at other tokens",
    "layer": "layer of the expert",
    "expert": "expert id",
    "label": "short name; null if there is only a note",
    "note": "free text; null if there is only a label",
    "author": "who said it",
    "source": "'person', or what it was imported from",
    "created": "when it was said, UTC",
    "supersedes": "annotation that this one corrected",
}
"""Columns of ``current_annotations`` and their meanings."""

SOURCES = ("annotations", "steps")
"""Tables that the view reads."""
