"""Labels from files as annotations: they stay when the steps are cut or labelled anew."""

from __future__ import annotations

from collections.abc import Iterable

from ringlens.store import Store
from ringlens.store.annotations.adding import add
from ringlens.store.annotations.annotation import Annotation, Target, system_user


def annotate_roles(
    store: Store, trace_ids: Iterable[int], source: str, author: str | None = None
) -> int:
    """Keep the roles of traces whose steps were labelled by a source as annotations too.

    A label that the source gave the same tokens before is not said again; one that it changed is
    corrected.

    Args:
        store: The store.
        trace_ids: Traces whose steps were imported.
        source: The source of their labels, as ``steps.label_source`` has it.
        author: Who imported them; the system's user if None.

    Returns:
        Number of annotations that were added.

    Raises:
        StoreError: The store cannot be written.
    """
    query = """
select traces.run_id, s.trace_id, s.step, s.token_start, s.token_end, role, a.annotation_id
from steps s join traces using (trace_id)
left join current_annotations a on a.source = $source and a.trace_id = s.trace_id
    and a.token_start = s.token_start and a.token_end = s.token_end
where s.trace_id in (select unnest($ids)) and s.label_source = $source and role is not null
    and s.token_end > s.token_start and role is distinct from a.label
order by s.trace_id, s.step"""
    rows = store.sql(query, {"source": source, "ids": list(trace_ids)}).fetchall()
    author = system_user() if author is None else author
    said = [
        Annotation(Target(*place), author, role, source=source, supersedes=before)
        for *place, role, before in rows
    ]
    if said:
        add(store.folder, said)
    return len(said)
