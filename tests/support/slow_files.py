"""Files that RINGLENS_FAST=1 leaves out (`make test-fast`), relative to tests/."""

_PROGRAMS = """
test_docs.py test_packaging.py
cli/test_commands.py cli/test_plan.py cli/test_sql.py
model/test_parallel_model.py observe/test_points_parallel.py interact/test_tracing.py
observe/test_recording.py observe/test_session_interrupted.py observe/test_session_killed.py
observe/test_session_s3.py observe/test_session_sharded.py
sandbox/test_attacks.py sandbox/test_refusal.py sandbox/test_sandbox.py
serving/test_import_live.py serving/test_import_saved.py
store/test_disks.py store/test_peers.py store/test_processes.py store/test_remote.py
store/test_remote_processes.py store/test_remote_steps.py store/test_upkeep_kills.py
"""

_SERVED = """
app/test_access.py app/test_browser.py app/test_browser_sql.py app/test_bundle.py
app/test_following.py app/test_imported.py app/test_pages.py app/test_sql.py
"""

_MANY_SIZES = """
data/test_nano.py model/test_family_sizes.py model/test_loading.py model/test_placement.py
model/test_quantization.py observe/test_session.py observe/test_session_nonfinite.py
store/test_accidents.py store/test_check.py store/test_compact.py store/test_delete.py
store/test_head_blocks.py store/test_intact.py store/test_parts.py store/test_reading.py
store/test_usage.py
"""

SLOW = f"{_PROGRAMS} {_SERVED} {_MANY_SIZES}".split()
