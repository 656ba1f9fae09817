"""A store of Ring-1T's shape with all that the dashboard draws, and a thought of 65,536 tokens.

Two runs: an earlier checkpoint, small, whose heads were recorded and probed; then the large one,
whose first trace has `LONG` tokens. Steps, beliefs and attention are there as well. Texts are words
in sentences, some of which begin as steps begin; what they say means nothing.

python benchmarks/dashboard_store.py STORE [--routed 1e8]
python benchmarks/dashboard_store.py STORE --many 1000     # as many short traces, for their sums

Shape letters: T tokens, L layers, H heads, S steps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_store import HEADS, LAYERS, ROUTED_A_TOKEN, TYPICAL, Maker, lengths, run_record

from ringlens.analysis.roles.labelling import label_store
from ringlens.store import RunRecord, Store, StoreWriter, TraceRecord
from ringlens.store.schema.records import AttentionArrays

LONG = 65_536
PROBED, PROBED_TOKENS = 2, 1_500
"""Traces of the run whose heads are recorded, and the tokens of each."""

SENTENCE = 24
OPENERS = (" Wait,", " So", " Let", " First,", " Therefore", " Maybe", " Compute", " Check")
SHORT = 40
PERMUTATIONS, GAPS = 99, (1, 4)
KEPT, FEW_HEADS, ONE_LAYER = 4, (0, 7, 23, 41), (40,)
"""Keys a token, heads and layers of the attention that is recorded."""

Row = dict[str, Any]


def main() -> None:
    """Make a store and say how long that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--routed", type=float, default=1e8, help="chosen experts in all")
    parser.add_argument("--many", type=int, help="as many short traces, and nothing else")
    given = parser.parse_args()
    start = time.perf_counter()
    if given.many:
        many(given.store, given.many)
    else:
        made(given.store, int(given.routed))
    print(f"{given.store}: made in {time.perf_counter() - start:.0f} s")


def made(path: Path, routed: int) -> Path:
    """A store of about so many routed rows; made if it is not there.

    Args:
        path: Folder of the store.
        routed: Chosen experts in all; a thought of `LONG` tokens is the least.
    """
    if path.exists():
        return path
    unfinished = path.with_name(f"{path.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(0)
    with StoreWriter(unfinished) as writer:
        _probed(writer, rng)
        _large(writer, rng, routed)
    unfinished.rename(path)
    return path


def many(path: Path, traces: int) -> Path:
    """A store of so many short traces: reading their sums is what is slow."""
    if not path.exists():
        rng = np.random.default_rng(1)
        maker = Maker(rng, heads=False, logits=False)
        with StoreWriter(path) as writer:
            run_id = writer.start_run(run_record(rng, False, False, maker.pool.bias_SE))
            for first in range(0, traces, 50):
                part = range(first, min(traces, first + 50))
                writer.commit(run_id, [maker.trace(SHORT, item) for item in part])
            writer.finish_run(run_id)
    return path


def _probed(writer: StoreWriter, rng: np.random.Generator) -> None:
    """Write the earlier checkpoint: heads of every token, scores of heads, pairs of steps."""
    maker = Maker(rng, heads=True, logits=False)
    run = _recording(run_record(rng, True, False, maker.pool.bias_SE))
    run_id = writer.start_run(replace(run, model="synthetic-earlier"))
    for item in range(PROBED):
        writer.commit(run_id, [_told(maker.trace(PROBED_TOKENS, item), rng)])
    label_store(writer)
    writer.replace_rows(run_id, "probes", list(_receivers(rng, 1)))
    writer.replace_rows(run_id, "head_steps", list(_pairs(rng, _steps(writer, 1), 1)))
    writer.finish_run(run_id)


def _large(writer: StoreWriter, rng: np.random.Generator, routed: int) -> None:
    """Write the run of ``routed`` choices in all, `LONG` tokens of them in its first trace."""
    maker = Maker(rng, heads=False, logits=False)
    run_id = writer.start_run(_recording(run_record(rng, False, False, maker.pool.bias_SE)))
    rest = routed // ROUTED_A_TOKEN - LONG - PROBED * PROBED_TOKENS
    sizes = lengths(rng, rest, round(rest / TYPICAL)) if rest > TYPICAL else []
    for item, length in enumerate([LONG, *sizes]):
        writer.commit(run_id, [_told(maker.trace(int(length), item), rng)])
    label_store(writer)
    writer.replace_rows(run_id, "probes", list(_beliefs(_steps(writer, PROBED + 1), PROBED + 1)))
    writer.finish_run(run_id)


def _recording(run: RunRecord) -> RunRecord:
    heads = "+".join(map(str, FEW_HEADS))
    return replace(run, record=(*run.record, f"attention:{KEPT}@{ONE_LAYER[0]}/{heads}"))


def _told(trace: TraceRecord, rng: np.random.Generator) -> TraceRecord:
    """The trace in sentences, with the attention of some heads."""
    text = list(trace.tokens.text)
    for place in range(SENTENCE, len(text), SENTENCE):
        text[place - 1] += "."
        text[place] = OPENERS[rng.integers(len(OPENERS))]
    end_T = np.cumsum([len(word) for word in text]).astype(np.int32)
    start_T = np.concatenate([[0], end_T[:-1]]).astype(np.int32)
    return replace(
        trace,
        text="".join(text),
        tokens=replace(trace.tokens, text=text, start=start_T, end=end_T),
        attention=_attention(rng, len(text)),
    )


def _attention(rng: np.random.Generator, tokens: int) -> AttentionArrays:
    """The first token, the one before, and two anywhere earlier; weights that fall."""
    pos_T = np.arange(tokens)
    shape = (len(ONE_LAYER), tokens, len(FEW_HEADS), 2)
    back = rng.random(shape) ** 2
    anywhere = (back * pos_T[None, :, None, None]).astype(np.int32)
    first = np.zeros((*shape[:3], 1), np.int32)
    before = np.broadcast_to(np.maximum(pos_T - 1, 0)[None, :, None, None], (*shape[:3], 1))
    positions = np.concatenate([first, before, anywhere], -1).astype(np.int32)
    order = np.sort(positions, -1)
    none = np.zeros((*shape[:3], 1), bool)
    repeated = np.concatenate([none, order[..., 1:] == order[..., :-1]], -1)
    weights = -np.sort(-rng.dirichlet(np.ones(KEPT + 1), shape[:3])[..., :KEPT], -1)
    positions = np.where(repeated, -1, order)
    # Those that are missing come last.
    last = np.argsort(repeated, -1, kind="stable")
    positions = np.take_along_axis(positions, last, -1)
    weights = np.where(positions < 0, 0, weights).astype(np.float16).astype(np.float32)
    return AttentionArrays(ONE_LAYER, FEW_HEADS, pos_T.astype(np.int32), positions, weights)


def _steps(writer: StoreWriter, trace_id: int) -> int:
    """How many steps a trace has."""
    with Store(writer.folder.address) as store:
        query = "select count(*) from steps where trace_id = ?"
        return int(store.sql(query, [trace_id]).fetchall()[0][0])


def _receivers(rng: np.random.Generator, trace_id: int) -> Iterator[Row]:
    """Rows of the probe of receiver heads, a few of them far from chance."""
    about = {"probe": "receivers", "trace_id": trace_id}
    settings = {"gaps": list(GAPS), "permutations": PERMUTATIONS}
    yield {**about, "key": "settings", "json": json.dumps(settings)}
    for layer in range(LAYERS):
        for head in range(HEADS):
            place = {**about, "layer": layer, "unit": head}
            dealt = json.dumps(rng.normal(0, 1, PERMUTATIONS).round(3).tolist())
            keen = rng.random() < 0.01
            for gap in GAPS:
                score = float(rng.normal(9 if keen else 0, 1))
                yield {**place, "key": f"kurtosis:{gap}", "value": score, "json": dealt}
                yield {**place, "key": f"beyond_recency:{gap}", "value": score - 1}
            yield {**place, "key": "recency", "value": float(rng.uniform(0.2, 0.8))}
            yield {**place, "key": "prompt", "value": float(rng.uniform(0, 0.3))}


def _pairs(rng: np.random.Generator, steps: int, trace_id: int) -> Iterator[Row]:
    """Rows of attention between steps, the mean of each layer's heads."""
    from_, to = np.tril_indices(steps)
    for layer in range(LAYERS):
        mass = rng.exponential(1, len(from_)) / (1 + (from_ - to) ** 0.7)
        mass *= 0.8 / np.bincount(from_, mass)[from_]
        for i, j, value in zip(from_.tolist(), to.tolist(), mass.tolist(), strict=True):
            pair = {"trace_id": trace_id, "layer": layer, "head": None}
            yield {**pair, "step_from": i, "step_to": j, "mass": value}


def _beliefs(steps: int, trace_id: int) -> Iterator[Row]:
    """Rows of the probe of belief: an answer that grows likelier, with a doubt in the middle."""
    about = {"probe": "belief", "trace_id": trace_id}
    yield {**about, "key": "settings", "json": "{}"}
    for unit, answer in enumerate(("24", "7")):
        said = json.dumps({"answer": answer, "final": unit == 0, "correct": unit == 0})
        yield {**about, "unit": unit, "key": "candidate", "json": said}
    for step in range(-1, steps):
        sure = (step + 1) / (steps + 1) * (0.3 if abs(step / steps - 0.5) < 0.1 else 1)
        for unit, p in enumerate((sure, 1 - sure)):
            yield {**about, "step": step, "unit": unit, "key": "p", "value": p}


if __name__ == "__main__":
    main()
