"""Wherever a capture or a replay is killed, the same call ends in what an uninterrupted one does.

Every column of every table is compared, bit for bit. RINGLENS_KILLS says how many kills there are,
RINGLENS_SEED where they fall.
"""

import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import session_worker
import tiny_lens
from killed_worker import Killer
from records import random_run
from slow_files import EVERYTHING

import ringlens as rl
from ringlens.errors import ObservationError, RinglensError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.check.repair import repair
from ringlens.store.schema.records import TokenArrays, TraceRecord

KILLS = int(os.environ.get("RINGLENS_KILLS", "6"))
SEED = int(os.environ.get("RINGLENS_SEED", "5"))
OWN = {"trace_id", "run_id", "resumed_at", "source_trace_id"}
CASES = {
    # Prompts of very different lengths, some shorter than what is held back, drawn tokens.
    "sampled": ("capture", {"lengths": [23, 3, 40], "batch_size": 2, "max_new_tokens": 26,
                            "temperature": 1.0, "seed": 3}),
    "greedy alone": ("capture", {"lengths": [23, 30], "batch_size": 1, "max_new_tokens": 20}),
    # A long prompt that goes through in many forwards, each of them committed.
    "chunked": ("capture", {"lengths": [120, 31], "batch_size": 2, "max_new_tokens": 8,
                            "prefill": 32}),
    # In processes, which are not killed themselves: they end when the one that is has ended.
    "replay": ("replay", {"lengths": [120, 50, 90], "batch_size": 2, "prefill": 32,
                          "workers": 2}),
}  # fmt: skip
STEPS: dict[str, int] = {}


@pytest.fixture(scope="module")
def killer():
    with Killer() as found:
        yield found


def ended(path):
    """Whether the run that a store holds has ended; there may be no store yet."""
    try:
        with Store(path) as store:
            return store.sql("select count(finished) from runs").fetchall() == [(1,)]
    except RinglensError:
        return False


def tables(path):
    """What a store holds, without the ids that a run gives anew."""
    found = {}
    with Store(path) as store:
        assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]
        for table in ("traces", "tokens", "routing", "router_logits", "expert_outputs", "heads",
                      "head_blocks", "activations", "attention", "usage_traces",
                      "usage_blocks"):  # fmt: skip
            names = [name for name, *_ in store.sql(f"describe {table}").fetchall()]
            wanted = ", ".join(f'k."{name}"' for name in names if name not in OWN)
            rows = store.sql(
                f"select t.item, {wanted} from {table} k join traces t using (trace_id) "
                "order by all"
            ).fetchall()
            assert rows
            found[table] = repr(rows)
    return found


def same(path, whole):
    found = tables(path)
    assert [name for name in whole if found[name] != whole[name]] == []


@pytest.fixture(scope="module")
def whole(killer, tmp_path_factory):
    """Of each case what an uninterrupted run holds."""
    found = {}
    for name, (call, options) in CASES.items():
        path = tmp_path_factory.mktemp("whole") / "s"
        STEPS[name] = killer.run(path, call, **options)
        found[name] = tables(path)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES if EVERYTHING else ("sampled", "replay"))
def test_a_run_killed_behind_each_commit_equals_one_that_was_not(case, killer, whole, tmp_path):
    (call, options), path = CASES[case], tmp_path / "s"
    kills = 0
    while not ended(path):  # at each commit in turn, the one that starts the run and the last too
        kills += killer.run(path, call, 1, ["behind complete"], **options) is None
    assert kills >= 4
    same(path, whole[case])
    with Store(path) as store:
        assert check(store).findings == []


@pytest.mark.slow
def test_a_run_killed_at_any_instant_equals_one_that_was_not(killer, whole, tmp_path):
    rng, kills, number = random.Random(SEED), 0, 0
    while kills < KILLS:
        case = list(CASES)[number % len(CASES)]
        (call, options), steps = CASES[case], STEPS[case]
        path = tmp_path / str(number)
        for _ in range(rng.randint(1, 3)):  # several kills in a row
            if not ended(path):  # another call would start another run
                kills += killer.run(path, call, rng.randint(1, steps), **options) is None
        if not ended(path):
            killer.run(path, call, **options)
        same(path, whole[case])
        shutil.rmtree(path)
        number += 1


def test_a_trace_that_does_not_begin_with_its_prompt_is_refused(tmp_path):
    """As earlier versions made them: resumed from a part of the prompt, then killed again."""
    lens = session_worker.lens()
    prompt, path = tiny_lens.prompt(*range(4, 40)), tmp_path / "s"

    def interrupted(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rl.capture(lens, [prompt], path, max_new_tokens=9, on_progress=interrupted)
    tokens = resumed_from_a_part(lens.encode(prompt), stored=20, more=10)
    with StoreWriter(path) as writer:
        ((run_id,),) = Store(path).sql("select run_id from runs").fetchall()
        writer.resume(run_id)
        (trace_id,) = writer.commit(run_id, [tokens])
    with pytest.raises(ObservationError, match=f"trace {trace_id} has token 7 at pos 20") as raised:
        rl.capture(lens, [prompt], path, max_new_tokens=9)
    assert "--repair --drop-damaged" in str(raised.value)
    with Store(path) as store:
        assert store.sql("select finish_reason from traces").fetchall() == [("running",)]


def resumed_from_a_part(prompt, stored, more):
    """A running trace: a part of a prompt, and what was made of that."""
    ids = [*prompt[:stored], *[7] * more]
    pieces = [f"{tiny_lens.word(i)} " for i in ids]
    ends = np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
    starts = np.array([0, *ends[:-1]], np.int32)
    none = np.full(len(ids), np.nan, np.float32)
    tokens = TokenArrays(
        np.array(ids, np.int32), pieces, starts, ends, ["prompt"] * len(ids), none, none
    )
    return TraceRecord(
        "p", "".join(pieces), len(ids), 0, 0, "running", 0, tokens, item=0, resumed_at=(stored,)
    )


def test_check_finds_traces_made_from_a_part_of_a_prompt_and_repair_flags_them(tmp_path):
    trace = resumed_from_a_part([*range(4, 40)], stored=20, more=10)
    phases = ["prompt"] * 25 + ["answer"] * 5  # what was made of the part counts as prompt first
    tokens = replace(trace.tokens, phase=phases)
    damaged = replace(trace, n_prompt=25, n_answer=5, finish_reason="length", tokens=tokens)
    sound = replace(damaged, item=1, resumed_at=(25, 28))
    path = tmp_path / "s"
    with StoreWriter(path) as writer:
        for mode, traces in (("live", [damaged, sound]), ("replay", [damaged])):
            run_id = writer.start_run(replace(random_run(), mode=mode, record=()))
            writer.commit(run_id, traces)
            writer.finish_run(run_id)
    with Store(path) as store:
        (found,) = check(store).findings
    assert (found.kind, found.traces) == ("truncated_prompt", (1,))
    assert "trace 1 of run" in found.sentence and "a part of the prompt" in found.sentence
    shutil.copytree(path, tmp_path / "copy")
    said = []
    assert repair(path, drop_damaged=False, say=said.append).findings == []
    assert any("flagged trace 1" in line for line in said)
    with Store(path) as store:
        assert store.sql("select trace_id, flags from traces order by 1").fetchall() == [
            (1, ["truncated_prompt"]), (2, None), (3, None)
        ]  # fmt: skip
        assert check(store).flagged == {"truncated_prompt": 1}
    assert repair(tmp_path / "copy", drop_damaged=True, say=said.append).findings == []
    with Store(tmp_path / "copy") as store:
        assert store.sql("select trace_id from traces order by 1").fetchall() == [(2,), (3,)]


def test_check_compares_phases_with_the_counts_of_traces(tmp_path):
    trace = resumed_from_a_part([4] * 30, stored=20, more=10)
    trace = replace(trace, n_prompt=22, n_answer=8, finish_reason="length", resumed_at=())
    with StoreWriter(tmp_path / "s") as writer:
        run_id = writer.start_run(replace(random_run(), record=()))
        writer.commit(run_id, [trace])
        writer.finish_run(run_id)
    with Store(tmp_path / "s") as store:
        (found,) = check(store).findings
    assert (found.kind, found.traces) == ("phase", (1,))
    assert "phases of tokens contradict n_prompt" in found.sentence
