"""What fast runs leave out, and what only RINGLENS_EXTRA=1 runs; paths are relative to tests/."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

# RINGLENS_FAST=1 (`make test-fast`) leaves these out. The longest first: that is the order in which
# the whole suite runs them.
_PROGRAMS = """
test_docs.py test_first_hour.py cli/test_commands.py
observe/test_session_killed.py store/test_processes.py
observe/test_session_interrupted.py sandbox/test_attacks.py observe/test_session_sharded.py
test_packaging.py cli/test_plan.py serving/test_import_live.py sandbox/test_sandbox.py
store/test_remote.py store/test_upkeep_kills.py observe/test_recording.py
store/test_remote_processes.py serving/test_import_saved.py interact/test_tracing.py
store/test_peers.py cli/test_sql.py cli/test_ask.py model/test_parallel_model.py store/test_disks.py
store/test_remote_steps.py observe/test_points_parallel.py observe/test_session_s3.py
sandbox/test_refusal.py test_notebook.py observe/test_interventions_parallel.py
"""

_SERVED = """
app/test_browser_sql.py app/test_browser_ways.py app/test_browser_access.py app/test_browser.py
app/test_pages.py
app/test_imported.py app/test_not_recorded.py app/test_sql.py app/test_following.py
app/test_access.py app/test_bundle.py app/test_browser_heads.py app/test_browser_thought.py
app/test_browser_expert.py app/test_thought.py app/test_expert.py app/test_browser_compare.py
app/test_browser_annotations.py app/test_annotations.py
app/test_compare.py app/test_heads.py app/test_browser_heads_page.py app/test_probes.py
app/test_browser_live.py app/test_live.py live/test_thinker.py
app/test_widgets.py app/test_browser_growing.py
app/test_beside.py app/test_browser_beside.py app/test_browser_palette.py app/test_palette.py
app/test_browser_axe.py app/test_single_file.py app/test_browser_links.py
"""

_MANY_SIZES = """
app/test_page_registry.py app/test_queries.py observe/test_instrument.py
observe/test_observe_golden.py store/test_roundtrip.py prompts/test_forms.py
observe/test_following.py prompts/test_samples.py observe/test_some_layers.py
data/test_nano.py data/test_reinforce.py data/test_checkpoints.py data/test_tasks.py
model/test_quantization.py store/test_accidents.py store/test_compact.py
store/test_check.py model/test_placement.py store/test_delete.py observe/test_session.py
store/test_parts.py observe/test_session_nonfinite.py store/test_usage.py
model/test_family_sizes.py model/test_loading.py store/test_reading.py store/test_intact.py
prune/test_evaluation.py prune/test_merging.py prune/test_export.py probes/test_ablation.py
probes/test_belief.py probes/test_steps_changed.py probes/test_planted.py
probes/test_ablated_answers.py prune/test_evaluation_shared.py
observe/test_expert_outputs.py prune/test_plan.py observe/test_decoding.py
probes/test_linear.py probes/test_steering.py probes/test_monitor.py observe/test_monitor.py
store/test_promise.py store/test_rows.py store/test_rescue.py model/test_plan_memory.py
store/test_annotations.py
model/test_plan_load.py store/test_head_blocks.py observe/test_interventions_stored.py
graders/test_program.py graders/test_latex.py observe/test_forecast.py
"""

SLOW = f"{_SERVED} {_PROGRAMS} {_MANY_SIZES}".split()

# What they show in more processes, places, sizes or draws, other files show in one.
EXTRA = [
    "observe/test_interventions_parallel.py",
    "observe/test_interventions_placed.py",
    "observe/test_long_texts.py",
    "prune/test_evaluation.py",
    "prune/test_merging.py",
    "probes/test_ablation.py",
    "probes/test_steps_changed.py",
    "probes/test_planted.py",
    "probes/test_ablated_answers.py",
    "prune/test_evaluation_shared.py",
    "data/test_checkpoints.py",
    "data/test_reinforce.py",
    "data/test_tasks.py",
    "analysis/test_engine.py",
    "analysis/test_role_labels.py",
    "store/test_remote_processes.py",
    "store/test_remote_steps.py",
    "store/test_upkeep_kills.py",
    "store/test_accidents.py",
    "test_first_hour.py",
    "observe/test_some_layers.py",
    "model/test_family_sizes.py",
    "model/test_placement.py",
    "model/test_fuzz_checkpoints.py",
    "store/test_fuzz_stores.py",
    "store/test_role_sums.py",
    "analysis/test_expert_card.py",
    "analysis/test_shuffled.py",
    "sandbox/test_fuzz_sql_values.py",
    "app/test_browser_long_list.py",
]


def extra_tests() -> dict[str, set[str]]:
    """Tests by file of which each takes more than two seconds of a core.

    Another test shows the same on a shorter way, or it is a further way through a page.
    """
    found: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in Path(__file__).with_name("extra_tests.txt").read_text().splitlines():
        if line.startswith(" "):
            names.add(line.strip())
        else:
            names = found.setdefault(line, set())
    return found


EVERYTHING = bool(os.environ.get("RINGLENS_EXTRA"))
"""Whether the extra tests run too."""

PART = os.environ.get("RINGLENS_PART", "0/1")
"""Which of the extra tests run, such as "3/8": numbers from 0 on."""


def in_part(nodeid: str) -> bool:
    """Whether an extra test is of the part that is asked for; each is of one."""
    number, parts = map(int, PART.split("/"))
    return zlib.crc32(nodeid.encode()) % parts == number


T = TypeVar("T")


def few(values: Iterable[T], count: int = 3) -> list[T]:
    """Some of the values that a test is shown with, spread evenly; all with RINGLENS_EXTRA=1."""
    every = list(values)
    if EVERYTHING or len(every) <= count:
        return every
    return [every[(place + 1) * len(every) // count - 1] for place in range(count)]
