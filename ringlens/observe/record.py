"""From a finished observation to the records of the store."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from ringlens.config import Sampling
from ringlens.observe.points import gate
from ringlens.observe.recorder import Recorder
from ringlens.observe.text import phases, token_text
from ringlens.problem import Problem, grade
from ringlens.store.records import RunRecord, TokenArrays, TraceRecord

if TYPE_CHECKING:
    from ringlens.lens import Lens

VERSIONED = ("ringlens", "torch", "transformers", "accelerate", "duckdb", "pyarrow")


@dataclass(frozen=True)
class Finished:
    """A trace that is done: a row of a recorder, and what the row is.

    Attributes:
        recorder: Holds the observations.
        row: Row of the batch.
        pad: Padded positions before the trace.
        token_ids: The trace's tokens, prompt included.
        n_prompt: How many of them are prompt.
        finish_reason: "stop", "length" or "replay".
        problem: What was asked, where that is known.
        seed: Seed of the trace's sampler.
        source_trace_id: The trace this one replays.
    """

    recorder: Recorder
    row: int
    pad: int
    token_ids: list[int]
    n_prompt: int
    finish_reason: str
    problem: Problem | None
    seed: int
    source_trace_id: int | None = None


def trace_record(lens: Lens, trace: Finished, record: tuple[str, ...]) -> TraceRecord:
    """Everything the store keeps of a finished trace."""
    text = token_text(lens.tokenizer, trace.token_ids)
    phase = phases(text, trace.n_prompt)
    rows = (trace.row, slice(trace.pad, trace.pad + len(trace.token_ids)))
    logprob, entropy = trace.recorder.token_numbers(rows)
    tokens = TokenArrays(
        token_id=np.array(trace.token_ids, dtype=np.int32),
        text=text.pieces,
        start=np.array(text.starts, dtype=np.int32),
        end=np.array(text.ends, dtype=np.int32),
        phase=phase,
        logprob=logprob,
        entropy=entropy,
    )
    routing, logits = trace.recorder.routing(rows) if "routing" in record else (None, None)
    problem = trace.problem
    graded = grade(problem, text.text) if problem is not None else None
    return TraceRecord(
        prompt=problem.prompt if problem else "".join(text.pieces[: trace.n_prompt]),
        text=text.text,
        n_prompt=phase.count("prompt"),
        n_think=phase.count("think"),
        n_answer=phase.count("answer"),
        finish_reason=trace.finish_reason,
        seed=trace.seed,
        tokens=tokens,
        routing=routing,
        router_logits=logits,
        heads=trace.recorder.heads(rows) if "heads" in record else None,
        problem_id=problem.id or None if problem else None,
        task=problem.task or None if problem else None,
        answer=graded.answer if graded else None,
        expected=problem.answer if problem else None,
        correct=graded.correct if graded else None,
        source_trace_id=trace.source_trace_id,
    )


def run_record(lens: Lens, mode: str, record: tuple[str, ...], settings: Sampling) -> RunRecord:
    """The constants of a run."""
    config, model = lens.config, lens.model
    biases = [gate(model, layer).expert_bias.float().cpu() for layer in config.sparse_layers]
    return RunRecord(
        mode=mode,
        model=lens.name,
        revision=lens.revision,
        layers=config.num_hidden_layers,
        sparse_layers=config.sparse_layers,
        experts=config.num_experts,
        experts_per_token=config.num_experts_per_tok,
        groups=config.n_group,
        groups_kept=config.topk_group,
        routed_scaling_factor=config.routed_scaling_factor,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or 0,
        hidden_size=config.hidden_size,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=None,
        attention=config._attn_implementation,
        experts_layout=config.experts_layout,
        seed=settings.seed,
        record=record,
        expert_bias=np.array([bias.numpy() for bias in biases], dtype=np.float32).reshape(
            len(biases), config.num_experts
        ),
        parallel={"processes": 1},
        versions={"python": platform.python_version(), **{n: version(n) for n in VERSIONED}},
        sampling=asdict(settings) if mode == "live" else {},
    )
