"""Wherever a capture or a replay is killed, the same call ends in what an uninterrupted one does.

Every column of every table is compared, bit for bit. RINGLENS_KILLS says how many kills there are.
"""

import os
import random
import shutil

import numpy as np
import pytest
import session_worker
import tiny_lens
from killed_worker import Killer

import ringlens as rl
from ringlens.errors import ObservationError, RinglensError
from ringlens.store import Store, StoreWriter
from ringlens.store.check import check
from ringlens.store.records import TokenArrays, TraceRecord

KILLS = int(os.environ.get("RINGLENS_KILLS", "6"))
OWN = {"trace_id", "run_id", "resumed_at", "source_trace_id"}
CASES = {
    # Prompts of very different lengths, some shorter than what is held back, drawn tokens.
    "sampled": ("capture", {"lengths": [23, 3, 40], "batch_size": 2, "max_new_tokens": 70,
                            "temperature": 1.0, "seed": 3}),
    "greedy alone": ("capture", {"lengths": [23, 30], "batch_size": 1, "max_new_tokens": 40}),
    # A long prompt that goes through in many forwards, each of them committed.
    "chunked": ("capture", {"lengths": [150, 31], "batch_size": 2, "max_new_tokens": 20,
                            "prefill": 32}),
    "replay": ("replay", {"lengths": [150, 90, 120], "batch_size": 2, "prefill": 32}),
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
        for table in ("traces", "tokens", "routing", "router_logits", "heads", "head_blocks",
                      "activations", "attention", "usage_traces", "usage_blocks"):  # fmt: skip
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
@pytest.mark.parametrize("case", CASES)
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
    rng, kills, number = random.Random(5), 0, 0
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
