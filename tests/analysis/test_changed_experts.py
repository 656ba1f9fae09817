"""What a training changed: planted in the router, in the words, or nowhere."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from planted import LAYERS, RUN
from records import WORDS, random_trace, route

from ringlens.analysis import Checkpoint, changed_experts
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

PROBLEMS, TOKENS = 12, 60
WAIT = WORDS.index(" Wait")


@dataclass(frozen=True)
class Model:
    """A model: how it routes, and what it writes.

    Attributes:
        name: Its name.
        boost: What it adds to the logits of expert 3 of the second layer.
        waits: The share of its words that are " Wait".
        seed: Seed of its texts.
    """

    name: str
    boost: float = 0
    waits: float = 0.1
    seed: int = 0


BASE = Model("base")
SAME = Model("after", seed=1)
ROUTER = Model("after", boost=2.5, seed=1)
WORDY = Model("after", waits=0.6, seed=1)


def write(path, model, texts=None, problems=range(PROBLEMS)):
    """A store of a model's own texts, or of those of another, replayed."""
    run = replace(RUN, model=model.name, mode="live" if texts is None else "replay")
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        traces = [trace_of(number, model, texts) for number in problems]
        if texts is not None:
            traces = [replace(each, source_trace_id=at) for at, each in enumerate(traces, 1)]
        writer.commit(run_id, traces)
        writer.finish_run(run_id)
    return Store(path)


def trace_of(number, model, texts):
    writer = model if texts is None else texts
    rng = np.random.default_rng([number, writer.seed])
    plain = random_trace(RUN, TOKENS, seed=number, router_logits=None, heads=None)
    token_T = rng.integers(0, len(WORDS), TOKENS)
    token_T[rng.random(TOKENS) < writer.waits] = WAIT
    token_T[: plain.n_prompt] = number % len(WORDS)  # the same prompt, whoever writes
    taste_VSE = np.random.default_rng(7).normal(0, 1, (len(WORDS), len(LAYERS), RUN.experts))
    taste_VSE[WAIT, 1, 5] += 4
    logits_STE = rng.normal(0, 1, (len(LAYERS), TOKENS, RUN.experts))
    logits_STE += taste_VSE[token_T].swapaxes(0, 1)
    logits_STE[1, :, 3] += model.boost
    text = [WORDS[i] for i in token_T]
    end_T = np.cumsum([len(piece) for piece in text]).astype(np.int32)
    start_T = (end_T - [len(piece) for piece in text]).astype(np.int32)
    tokens = replace(
        plain.tokens, token_id=token_T.astype(np.int32), text=text, start=start_T, end=end_T
    )
    routing = route(RUN, logits_STE.astype(np.float16).astype(np.float32))
    named = {"prompt": f"Problem {number}.", "problem_id": f"p-{number}"}
    return replace(plain, tokens=tokens, text="".join(text), routing=routing, **named)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores by name, each written once."""
    folder, there = tmp_path_factory.mktemp("s"), {}

    def get(name, *args, **settings):
        if name not in there:
            there[name] = write(folder / name, *args, **settings)
        return there[name]

    yield get
    for store in there.values():
        store.close()


def compared(stores, name, after, **settings):
    """Base against a model, with base's texts replayed by it."""
    return changed_experts(
        Checkpoint("base", stores("base", BASE)),
        Checkpoint("after", stores(name, after)),
        replay=Checkpoint("replay", stores(f"{name}-replay", after, texts=BASE)),
        **({"draws": 50} | settings),
    )


def hits(frame, control=""):
    """Layers and experts whose change is found."""
    found = frame[frame[f"q{control}"] <= 0.05]
    values = found[f"difference{control}"]
    return dict(zip(zip(found.layer, found.expert, strict=True), values, strict=True))


def test_nothing_is_found_where_nothing_changed(stores):
    frame = compared(stores, "same", SAME)
    assert hits(frame) == hits(frame, "_words") == hits(frame, "_texts") == {}
    assert (frame["difference_texts"] == 0).all() and (frame["p_texts"] == 1).all()
    assert frame.attrs["found"] == {"all": 0, "words": 0, "texts": 0}
    assert frame.attrs["kept"]["texts"] == 0


def test_a_change_of_the_router_survives_every_control(stores):
    frame = compared(stores, "router", ROUTER)
    for control in ("", "_words", "_texts"):
        found = hits(frame, control)
        assert found[2, 3] > 0.2, control
        assert abs(found[2, 3]) == max(map(abs, found.values()))
    assert {layer for layer, _ in hits(frame, "_texts")} == {2}  # and what it displaces there
    best = frame.iloc[0]
    assert (best.layer, best.expert) == (2, 3)
    assert 0 < best.low_texts < best.difference_texts < best.high_texts
    assert 0.8 < frame.attrs["kept"]["texts"] < 1.2
    assert frame.attrs["checkpoints"] == ("base", "after")
    assert (frame.attrs["problems"], frame.attrs["left_out"]) == (PROBLEMS, 0)


def test_a_change_of_words_does_not(stores):
    frame = compared(stores, "wordy", WORDY)
    assert hits(frame)[2, 5] > 0.2
    assert (2, 5) not in hits(frame, "_words")
    assert hits(frame, "_texts") == {}
    kept = frame.attrs["kept"]
    assert abs(kept["words"]) < 0.2 and kept["texts"] == 0


def choices(store, where):
    query = f"""select prompt, token_id, pos, expert from router_choices
        join token_context using (trace_id, pos)
        join (select trace_id, prompt from traces) using (trace_id)
        where layer = 2 and phase = 'think' and {where}"""
    return store.sql(query).fetchall()


def test_differences_by_plain_arithmetic(stores):
    """Strata by hand: the shares of each, weighted by N·M / (N + M)."""
    frame = compared(stores, "router", ROUTER, draws=0)
    assert not {"low", "high_words"} & set(frame.columns)
    own, after = (choices(stores(name), "true") for name in ("base", "router"))
    again = choices(stores("router-replay"), "true")
    of_layer = frame[frame.layer == 2].set_index("expert")
    for control, b_rows, key in (
        ("", after, lambda row: row[0]),
        ("_words", after, lambda row: row[:2]),
        ("_texts", again, lambda row: (row[0], row[2])),
    ):
        tokens = [Counter(), Counter()]
        chosen = [defaultdict(Counter), defaultdict(Counter)]
        for side, rows in enumerate((own, b_rows)):
            for row in rows:
                tokens[side][key(row)] += 1 / RUN.experts_per_token
                chosen[side][row[3]][key(row)] += 1
        weights = {
            each: tokens[0][each] * tokens[1][each] / (tokens[0][each] + tokens[1][each])
            for each in tokens[0]
            if each in tokens[1]
        }
        for expert in range(RUN.experts):
            top = sum(
                weight * (chosen[1][expert][s] / tokens[1][s] - chosen[0][expert][s] / tokens[0][s])
                for s, weight in weights.items()
            )
            wanted = top / sum(weights.values())
            assert of_layer.loc[expert, f"difference{control}"] == pytest.approx(wanted, abs=1e-9)
    total = len(own) / RUN.experts_per_token
    assert of_layer.loc[3, "before"] == pytest.approx(sum(r[3] == 3 for r in own) / total)


def test_problems_that_one_lacks_are_left_out_and_counted(stores):
    few = stores("few", ROUTER, problems=range(4, PROBLEMS + 3))
    frame = changed_experts(
        Checkpoint("base", stores("base", BASE)), Checkpoint("few", few), "entropy >= 0", draws=20
    )
    assert (frame.attrs["problems"], frame.attrs["left_out"]) == (8, 7)
    assert "difference_texts" not in frame.columns and frame.attrs["smallest_p"] == 2 / 2**8
    assert frame["low"].notna().all()


def test_what_cannot_be_compared_is_refused(stores):
    base = Checkpoint("base", stores("base", BASE))
    after = Checkpoint("after", stores("router", ROUTER))
    own = Checkpoint("own", stores("base-again", BASE, texts=BASE))
    others = Checkpoint("others", stores("router-own", ROUTER, texts=ROUTER))
    for settings, message in (
        ({"replay": own}, "the model before; replay the texts of 'base' with 'after'"),
        ({"replay": others}, "no traces of the same tokens"),
        ({"where": "phaze = 'think'"}, "Did you mean 'phase'"),
        ({"draws": -1}, "draws"),
    ):
        with pytest.raises((ConfigError, StoreError), match=message):
            changed_experts(base, after, **settings)
    with pytest.raises(ConfigError, match="hold the same traces"):
        changed_experts(base, replace(base, name="again"))
    far = Checkpoint("far", stores("far", ROUTER, problems=range(13, 16)))
    with pytest.raises(StoreError, match="comes from 0 problems"):
        changed_experts(base, far)
