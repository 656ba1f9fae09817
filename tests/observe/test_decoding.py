"""A decoding step that is repeated decodes and records what ``generate`` does; here on the CPU."""

import inspect
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pyarrow as pa
import pytest
import tiny_lens
import torch
from repeating import EVERYTHING, interrupt_behind_a_block, repeated, rows, same_tables
from sessions import PROMPTS, assert_same
from taped_ops import AsNoted

import ringlens as rl
from ringlens.errors import ConfigError, ObservationError
from ringlens.model.parallel import Parallel
from ringlens.observe import session
from ringlens.observe.decoding import attention, choice, generating
from ringlens.observe.decoding.choice import Wanted, against
from ringlens.observe.decoding.generating import AsItStands
from ringlens.observe.decoding.rings import Rings
from ringlens.observe.instruments.base import Kind
from ringlens.store.schema import instruments
from ringlens.store.schema.instruments import Declaration
from ringlens.store.schema.table import POS, TRACE, Column, Table, Tiles


class InPython:
    """An instrument of somebody else's, which does not know of steps that are repeated."""

    start = 0

    def attach(self):
        return []


COLUMNS = (TRACE, POS, Column("norm", pa.float32(), "L2 norm"))
OWN = Declaration(
    "own",
    Table("own", "One row a token.", ("trace_id", "pos"), COLUMNS, tiles=Tiles("none")),
    kind=Kind(lambda watched, asked: iter([("own", InPython())])),
    attaches_to="point",
)


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


RECORDED = ("logprobs", "routing")
OPTIONS = {"max_new_tokens": 70, "record": EVERYTHING}
OPTIONS |= {"commit_every": 3600}  # a block of heads that a commit cuts has two rows
OPTIONS |= {"temperature": 0.9, "top_p": 0.95, "top_k": 100}


@pytest.fixture(scope="module")
def eager(lens, tmp_path_factory):
    return rl.capture(lens, PROMPTS, tmp_path_factory.mktemp("eager") / "store", **OPTIONS)


@pytest.mark.parametrize("make", [AsItStands, AsNoted])
def test_a_repeated_step_records_what_generate_records(make, lens, eager, tmp_path, monkeypatch):
    """Past a full ring, past several rooms, with padding, and with noise."""
    monkeypatch.setattr(generating, "ROOM", 16)
    with repeated(make):
        again = rl.capture(lens, PROMPTS, tmp_path / "again", **OPTIONS)
    same_tables(eager, again)


def test_rows_end_where_generate_ends_them(lens, tmp_path):
    """And no more steps run than it takes to see that all have ended."""
    free = rl.capture(lens, PROMPTS, tmp_path / "free", max_new_tokens=30, record=())
    drawn = [free.trace(i).tokens()["token_id"][-30:].tolist() for i in range(1, 5)]
    ends = [tokens[3 + 4 * row] for row, tokens in enumerate(drawn)]
    steps = []
    lens.model.generation_config.eos_token_id = ends
    try:
        eager = rl.capture(lens, PROMPTS, tmp_path / "eager", max_new_tokens=90)
        with repeated():
            again = rl.capture(
                lens, PROMPTS, tmp_path / "again", max_new_tokens=90, on_progress=steps.append
            )
    finally:
        lens.model.generation_config.eos_token_id = 1
    for trace_id in range(1, 5):
        a, b = eager.trace(trace_id), again.trace(trace_id)
        assert b.summary["finish_reason"] == a.summary["finish_reason"] == "stop"
        assert_same(a, b)
    assert len(steps) < 90


def test_a_run_that_was_interrupted_is_taken_up(lens, tmp_path):
    """Bit for bit, with the noise of its positions and the tokens that are stored."""
    options = {"max_new_tokens": 100, "batch_size": 4, "temperature": 1.0, "seed": 3}
    options |= {"commit_every": 0, "record": ("routing", "logprobs")}

    interrupt = interrupt_behind_a_block(tmp_path / "s")
    with repeated():
        whole = rl.capture(lens, PROMPTS, tmp_path / "whole", **options)
        with pytest.raises(KeyboardInterrupt):
            rl.capture(lens, PROMPTS, tmp_path / "s", **options, on_progress=interrupt)
        again = rl.capture(lens, PROMPTS, tmp_path / "s", **options)
    assert again.sql("select 1 from traces where len(resumed_at) = 1").fetchall()
    for table in ("tokens", "routing"):
        assert repr(rows(whole, table)) == repr(rows(again, table)), table


ACTS = (
    rl.Ablate(5, (3, 7, 25), phase="think"),
    rl.Boost(4, 3, 0.2, span=(60, 100)),
    rl.Swap(6, (1, 2)),
    rl.Scale(6, (1, 5), 0.5, words=("6", "4"), reach=3),
    rl.AblateHead(2, 1, span=(0, 90)),
)


def test_interventions_act_in_a_step_that_is_repeated(tmp_path, monkeypatch):
    """At spans, phases and words; what they did is counted as often as by ``generate``."""
    nano, problems = rl.load("ring-nano", dtype="float32"), rl.problems("countdown", n=2)
    changes, settle = [], session.settle

    def settled(effect, *others):
        settle(effect, *others)
        changes.append([(c.tokens, c.changed, c.barred, c.seen) for c in effect.changes])

    monkeypatch.setattr(session, "settle", settled)
    stores = []
    for name in ("eager", "again"):
        with repeated(AsNoted) if name == "again" else nullcontext():
            options = {"max_new_tokens": 70, "interventions": ACTS, "record": RECORDED}
            stores.append(rl.capture(nano, problems, tmp_path / name, **options))
    eager, again = stores
    query = "select trace_id, pos, token_id, phase from tokens order by all"
    assert eager.sql(query).fetchall() == again.sql(query).fetchall()
    query = "select trace_id, layer, pos, expert_ids, {} from routing order by all"
    for columns in ("own_ids", "intervened"):
        found = [store.sql(query.format(columns)).fetchall() for store in stores]
        assert found[0] == found[1]
    assert changes[0] == changes[1]
    assert all(changed for _, changed, _, _ in changes[0])


def test_a_run_that_is_followed_can_be_stopped(lens, tmp_path):
    """All tokens are told, and those behind the stop are the same as by ``generate``."""
    stores, told = [], []
    for name in ("eager", "again"):
        stop, texts = threading.Event(), {}
        told.append(texts)

        def follow(steps, stop=stop, texts=texts):
            for step in steps:
                texts[step.item] = texts.get(step.item, "") + step.text
            if len(texts) == 4 and all(len(text) > 150 for text in texts.values()):
                stop.set()

        with repeated() if name == "again" else nullcontext():
            options = {"max_new_tokens": 500, "on_tokens": follow, "stop": stop}
            stores.append(rl.capture(lens, PROMPTS, tmp_path / name, **options))
    for store, texts in zip(stores, told, strict=True):
        found = dict(store.sql("select item, text from traces").fetchall())
        assert texts == found
        (reasons,) = store.sql("select list(distinct finish_reason) from traces").fetchall()[0]
        assert reasons == ["interrupted"]
    for item, text in told[0].items():
        both = sorted((text, told[1][item]), key=len)
        assert both[1].startswith(both[0])


@pytest.mark.parametrize("record", [("routing",), ("heads",)])
def test_numbers_that_are_none_stop_a_run(record, tmp_path):
    """Where router logits are looked at, and where no more than the peak of the logits is."""
    lens = tiny_lens.lens()
    module = lens.model.model.layers[2].mlp.gate if record == ("routing",) else lens.model.lm_head

    def spoil(progress):
        if progress.tokens > 8:
            with torch.no_grad():
                module.weight[0] = torch.nan

    with repeated(), pytest.raises(ObservationError, match="nan"):
        rl.capture(
            lens, PROMPTS, tmp_path / "s", max_new_tokens=30, record=record, on_progress=spoil
        )


def test_what_stands_against_a_graph_is_said(lens, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="runs on 'cpu', and graphs are CUDA's"):
        rl.capture(lens, PROMPTS, tmp_path / "s", decode="graph")
    assert not (tmp_path / "s").exists()
    with pytest.raises(
        ConfigError, match="decode is str 'fast'; known are 'auto', 'graph', 'eager'"
    ):
        rl.capture(lens, PROMPTS, tmp_path / "s", decode="fast")
    modules = tiny_lens.lens("modules", "flex_attention")
    handle = modules.model.lm_head.register_forward_hook(lambda *_: None)
    monkeypatch.setattr(instruments, "INSTRUMENTS", (*instruments.INSTRUMENTS, OWN))
    found = " ".join(against(Wanted(modules, ("own",), 4)))
    handle.remove()
    for clause in ("'flex_attention'", "modules", "hooks", "'own'"):
        assert clause in found


@pytest.mark.parametrize(
    ("four_bits", "packed", "batch", "clauses"),
    [
        (True, True, 16, ()),
        (True, True, 1000, ("a batch of 1000 has more choices",)),
        (True, False, 4, ("called one by one",)),
        (False, False, 4, ("weights in 8 bits", "called one by one")),
    ],
)
def test_which_quantised_experts_a_graph_can_hold(monkeypatch, four_bits, packed, batch, clauses):
    """The rest that stands against one on a CPU is left out."""
    modules = tiny_lens.lens("modules")
    held = SimpleNamespace(load_in_4bit=four_bits)
    monkeypatch.setattr(modules.config, "quantization_config", held, raising=False)
    monkeypatch.setattr(choice, "packed_of", lambda experts: object() if packed else None)
    found = list(choice._experts(modules, batch))
    assert len(found) == len(clauses)
    assert all(clause in said for clause, said in zip(clauses, found, strict=True))


@pytest.mark.parametrize(
    ("sizes", "backend", "clauses"),
    [
        ({"tp_size": 2}, "nccl", ()),
        ({"tp_size": 2, "ep_size": 2}, "cpu:gloo,cuda:nccl", ()),
        ({"ep_size": 2}, "gloo", ("'gloo', which graphs do not hold",)),
        ({"pp_size": 2}, "nccl", ("stages of a pipeline",)),
    ],
)
def test_which_processes_a_graph_can_tell(lens, monkeypatch, sizes, backend, clauses):
    parallel = Parallel(**sizes, world_size=2)
    monkeypatch.setattr(choice, "parallel_of", lambda model: parallel)
    monkeypatch.setattr(choice.dist, "get_backend", lambda: backend)
    found = [said for said in choice._place(lens) if "runs on 'cpu'" not in said]
    assert len(found) == len(clauses)
    assert all(clause in said for clause, said in zip(clauses, found, strict=True))
    float32 = list(choice._experts(lens, 4))
    assert float32 == (
        ["experts of several processes ask the device in more than 16 bits"]
        if "ep_size" in sizes
        else []
    )


def by_lengths(self, query_BH1C, key_BGSC, value_BGSC, scaling):
    """What flash attention computes of the numbers that it is given."""
    S, outputs = key_BGSC.shape[2], []
    rows = zip(self._firsts.tolist(), self._lengths_B.tolist(), strict=False)
    for b, (first, length) in enumerate(rows):
        seen = slice(first - b * S, first - b * S + length)
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                query_BH1C[b : b + 1],
                key_BGSC[b : b + 1, :, seen],
                value_BGSC[b : b + 1, :, seen],
                scale=scaling,
                enable_gqa=True,
            ).transpose(1, 2)
        )
    return torch.cat(outputs)


def test_steps_that_read_the_cache_in_place_see_what_a_mask_shows(
    lens, eager, tmp_path, monkeypatch
):
    """Prompts of several lengths, and a cache that grows; the kernel itself needs a GPU."""
    seen = []

    def counted(*given):
        seen.append(1)
        return by_lengths(*given)

    monkeypatch.setattr(generating, "ROOM", 64)
    monkeypatch.setattr(attention, "reads_in_place", lambda query: True)
    monkeypatch.setattr(attention.Filled, "attention", counted)
    with repeated():
        in_place = rl.capture(lens, PROMPTS, tmp_path / "s", **OPTIONS)
    assert len(seen) >= lens.sizes.layers * OPTIONS["max_new_tokens"]
    assert lens.config._attn_implementation == "sdpa"
    same_tables(eager, in_place)


@pytest.mark.parametrize("given", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}, {"dropout": 0.1}])
def test_attention_of_another_kind_is_not_read_in_place(monkeypatch, given):
    monkeypatch.setattr(attention, "reads_in_place", lambda query: True)
    fixed, called = attention.FixedAttention("sdpa"), []
    query = torch.zeros(1, 2, 1, 8)
    fixed.filled = attention.Filled(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 1, 4))
    own = SimpleNamespace(attention_kernel=lambda *_: lambda *a, **k: called.append(k))
    monkeypatch.setattr(attention, "family_of", lambda config: own)
    mask = fixed.filled.mask_B11S
    fixed(SimpleNamespace(config=None), query, query, query, mask, scaling=1.0, **given)
    assert called == [{"scaling": 1.0, **given}]


def test_a_ring_keeps_tensors_of_all_kinds():
    g = torch.Generator().manual_seed(0)
    kinds = [(3, torch.float32), (5, torch.bfloat16), (1, torch.int64), (2, torch.bool)]
    steps = [
        [torch.randint(0, 2, (2, n), generator=g).to(dtype).T for n, dtype in kinds]
        for _ in range(7)
    ]
    rings = Rings(steps[0], 4)
    for number, shown in enumerate(steps):
        rings.keep(shown, torch.tensor([number % 4]))
    for shown, kept in zip(steps[4:], rings.taken(0, 3), strict=True):
        for a, b in zip(shown, kept, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    with pytest.raises(ObservationError, match="other tensors"):
        rings.keep(steps[0][:2], torch.tensor([0]))


@pytest.mark.parametrize("reasons", [(), ("the model runs on 'cpu'",)])
def test_a_graph_is_taken_by_itself_where_there_can_be_one(monkeypatch, reasons):
    monkeypatch.setattr(choice, "against", lambda wanted: iter(reasons))
    wanted = Wanted(tiny_lens.lens(), (), 4)
    assert choice.generating("auto", wanted) is (
        choice.generate if reasons else choice.generate_by_graph
    )
    assert choice.generating("eager", wanted) is choice.generate
    assert inspect.signature(rl.capture).parameters["decode"].default == "auto"
