"""A model whose numbers are none: recording stops at the first, or goes on and flags it."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import session_worker
import tiny_lens
import torch
from click.testing import CliRunner
from records import random_run, random_trace
from slow_files import few

import ringlens as rl
from ringlens.cli.main import main
from ringlens.errors import ObservationError
from ringlens.observe.pipeline.block import Block
from ringlens.observe.pipeline.finite import faults, refuse, suspects
from ringlens.observe.tasks import Text
from ringlens.problem import Problem
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.check.repair import repair
from ringlens.store.maintain.info import info

PROMPTS = [tiny_lens.prompt(*range(4, 24)), tiny_lens.prompt(300, 301, 302)]
EVERYTHING = ("logprobs", "routing", "router_logits", "heads", "resid_post@1", "attention:2@1/0")
WORD = "t9."


@pytest.fixture
def lens():
    return session_worker.lens()


def layer(lens, index):
    return lens.model.model.layers[index]


def router_of_layer_2(lens):
    with torch.no_grad():
        layer(lens, 2).mlp.gate.weight[5, 3] = torch.nan


def bias_of_layer_1(lens):
    with torch.no_grad():
        layer(lens, 1).mlp.gate.expert_bias[3] = torch.nan


def expert_of_layer_1(lens):
    with torch.no_grad():
        layer(lens, 1).mlp.shared_experts.up_proj.weight[0] = torch.inf


def attention_of_layer_3(lens):
    with torch.no_grad():
        layer(lens, 3).attention.query_key_value.weight[0, 0] = torch.nan


def embedding_of_one_token(lens):
    with torch.no_grad():
        lens.model.model.word_embeddings.weight[int(WORD[1:-1])] = torch.nan


def infinite_head(lens):
    with torch.no_grad():
        lens.model.lm_head.weight[7, :] = torch.inf


BROKEN = {
    router_of_layer_2: "layer 2, token 0 of item 0",
    bias_of_layer_1: "layer 1, token 0 of item 0",
    expert_of_layer_1: "layer 1, token 0 of item 0",
    attention_of_layer_3: "layer 3, token 0 of item 0",
    embedding_of_one_token: "layer 0, token . of item 0",
    infinite_head: "the logits, token 0 of item 0",
}


@pytest.mark.parametrize("breaks", few(BROKEN), ids=lambda each: each.__name__)
@pytest.mark.parametrize("mode", ["capture", "replay"])
def test_it_stops_at_the_first_and_keeps_what_was_committed(mode, breaks, lens, tmp_path):
    def run(**options):
        if mode == "replay":
            return rl.replay(lens, PROMPTS, tmp_path / "s", record=EVERYTHING, **options)
        return rl.capture(
            lens, PROMPTS, tmp_path / "s", record=EVERYTHING, max_new_tokens=4, **options
        )

    breaks(lens)
    with pytest.raises(ObservationError, match=BROKEN[breaks]) as raised:
        run()
    assert "allow_nonfinite=True" in str(raised.value)
    with Store(tmp_path / "s") as store:
        assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 0)]
        assert store.sql("select count(*) from traces").fetchall() == [(0,)]
        assert check(store).findings == []
    run(allow_nonfinite=True).close()  # takes the run up
    with Store(tmp_path / "s") as store:
        assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]
        assert store.sql("select flags from traces where item = 0").fetchall() == [(["nonfinite"],)]
        null = "select count(*) from tokens where pos > 0 and logprob is null and not nonfinite"
        assert store.sql(null).fetchall() == [(0,)]
        assert check(store).findings == []


def test_some_tokens_are_flagged_and_earlier_commits_stay(lens, tmp_path):
    """A text with one bad token: in decoding nothing before it is touched."""
    embedding_of_one_token(lens)
    ids = [*range(20, 60), 9, *range(60, 80)]
    text = Text(ids, 4)
    call = partial(
        rl.replay,
        lens,
        [Text(ids[:30], 4), text],
        tmp_path / "s",
        prefill=8,
        commit_every=0,
        record=EVERYTHING,
    )
    with pytest.raises(ObservationError, match=r"token 40 of item 1, trace 1: "):
        call()
    with Store(tmp_path / "s") as store:
        rows = store.sql("select item, n_prompt + n_answer, flags from traces").fetchall()
        assert rows == [(1, 24, None)]  # 40 less what is held back; the other one is padded
        assert check(store).findings == []
    call(allow_nonfinite=True).close()
    with Store(tmp_path / "s") as store:
        flags = store.sql("select item, flags, resumed_at from traces order by 1").fetchall()
        assert flags == [(0, None, []), (1, ["nonfinite"], [24])]
        rows = store.sql("select pos from tokens where nonfinite order by pos").fetchall()
        assert [pos for (pos,) in rows] == list(range(40, 61))
        report = check(store)
        assert report.findings == [] and report.flagged == {"nonfinite": 1}


def test_infinities_that_mean_something_are_recorded(lens, tmp_path):
    """Masked logits, and masked experts."""
    with torch.no_grad():
        layer(lens, 1).mlp.gate.expert_bias[:2] = -torch.inf
    hook = lens.model.lm_head.register_forward_hook(
        lambda module, args, output: output.index_fill(-1, torch.tensor([301, 302]), -torch.inf)
    )
    try:
        store = rl.capture(lens, PROMPTS, tmp_path / "s", max_new_tokens=4)
    finally:
        hook.remove()
    assert store.sql("select distinct flags from traces").fetchall() == [(None,)]


@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        (("routing", "margin"), np.inf, False),
        (("routing", "margin"), -np.inf, True),
        (("routing", "group_margin"), np.inf, False),
        (("routing", "entropy"), np.inf, True),
        (("routing", "logits"), -np.inf, False),
        (("routing", "logits"), np.inf, True),
        (("logprobs", "logprob"), -np.inf, False),
        (("logprobs", "entropy"), -np.inf, True),
        (("heads", "output_norm"), np.inf, True),
        (("resid_post", "values"), np.nan, True),
        (("resid_post", "values"), 3e38, False),  # the sum of which is beyond float32
    ],
)
def test_which_numbers_are_none(field, value, wrong):
    part = np.full((3, 5, 2), value if value == 3e38 else 1, np.float32)
    part[1, 2, 0] = value
    seen = Block(0, 5, np.zeros((1, 5)), {field: part}, {}, {})
    with warnings.catch_warnings(action="error"):  # users see what numpy says
        assert suspects(seen) == {field}
        half = np.full((4, 4096), 300, np.float16)  # the squares of which are beyond float16
        assert suspects(Block(0, 5, np.zeros((1, 5)), {field: half}, {}, {})) == set()
        half[2, 7] = -np.inf
        assert suspects(Block(0, 5, np.zeros((1, 5)), {field: half}, {}, {})) == {field}
    found = faults(field, part, 10, (4, 6, 8))
    assert list(found) == ([12] if wrong else [])
    if wrong:
        assert found[12].value == str(float(value))
        said = rf"of item 7 \(p\), trace 3: .* is {value}"
        with pytest.raises(ObservationError, match=said) as raised:
            refuse(found[12], 3, 7, Problem("p", "", "x"))
        where = "the logits, token 11" if field[0] == "logprobs" else "layer 6, token 12"
        assert str(raised.value).startswith(where)


def test_check_finds_numbers_that_are_none_and_repair_flags_them(tmp_path):
    """As earlier versions stored them, without a word."""
    run = replace(random_run(), record=("logprobs", "routing", "heads"))
    sound, nan, null = (random_trace(run, seed=seed) for seed in range(3))
    nan.routing.entropy[0, 2] = np.nan
    null.tokens.logprob[3] = np.nan
    sound.routing.margin[0, 1] = np.inf
    path = tmp_path / "s"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [sound, nan, null])
        writer.finish_run(run_id)
    with Store(path) as store:
        found = {(f.kind, f.path, f.traces) for f in check(store).findings}
    assert found == {("nonfinite", "routing", (2,)), ("logprob", "tokens", (3,))}
    said = []
    assert repair(path, drop_damaged=False, say=said.append).findings == []
    assert sorted(line for line in said if "flagged" in line) == [
        f"flagged trace 2 of run {run_id} nonfinite",
        f"flagged trace 3 of run {run_id} nonfinite",
    ]
    with Store(path) as store:
        assert store.sql("select trace_id, flags from traces order by 1").fetchall() == [
            (1, None), (2, ["nonfinite"]), (3, ["nonfinite"])
        ]  # fmt: skip
        assert info(store)["flagged"] == 2


def test_the_command_line_says_where_and_goes_on_when_told(lens, tmp_path, monkeypatch):
    infinite_head(lens)
    monkeypatch.setattr(rl, "load", lambda *args, **options: lens)
    (tmp_path / "p.jsonl").write_text('{"id": "q7", "task": "", "prompt": "t5. t6."}\n')
    command = ["capture", "ring-nano", "--problems", str(tmp_path / "p.jsonl"),
               "--store", str(tmp_path / "s"), "--max-new-tokens", "3"]  # fmt: skip
    stopped = CliRunner().invoke(main, command)
    assert stopped.exit_code == 1
    assert "the logits, token 0 of item 0 (q7)" in stopped.output
    assert CliRunner().invoke(main, [*command, "--allow-nonfinite"]).exit_code == 0
    checked = CliRunner().invoke(main, ["check", str(tmp_path / "s")])
    assert checked.exit_code == 0
    assert "1 traces are flagged nonfinite" in checked.output


@pytest.mark.parametrize("record", [["routing"], ["heads"], []], ids=str)
def test_a_token_is_not_drawn_from_logits_that_are_none(record, lens, tmp_path):
    """Also where nothing is recorded in which they would show."""
    infinite_head(lens)
    said = "the logits, token 19 of item 0 .*: the largest is nan"
    with pytest.raises(ObservationError, match=said):
        rl.capture(lens, PROMPTS[:1], tmp_path / "s", record=record, max_new_tokens=4)
    options = {"record": record, "max_new_tokens": 4, "allow_nonfinite": True}
    store = rl.capture(lens, PROMPTS[:1], tmp_path / "s", **options)
    rows = store.sql("select pos from tokens where nonfinite order by pos").fetchall()
    assert rows == [(20,), (21,), (22,), (23,)]
    assert check(store).findings == []
