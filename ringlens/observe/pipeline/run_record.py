"""The constants of a run, and the digest by which an interrupted one is found again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ringlens.config import Recorded, Sampling
from ringlens.model.parallel import parallel_of
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.observe.pipeline.ranks import RankRole
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.observe.points import selection_bias
from ringlens.store.schema.records import RunRecord
from ringlens.versions import version_of

if TYPE_CHECKING:
    from ringlens.interventions import Intervention
    from ringlens.model.loaded import LoadedModel
    from ringlens.model.sizes import Sizes

WITH = "+"
"""Stands in a fingerprint before the digest of the interventions."""

VERSIONED = ("ringlens", "torch", "transformers", "accelerate", "duckdb", "pyarrow")


def run_record(
    lens: LoadedModel,
    mode: str,
    record: tuple[Recorded, ...],
    settings: Sampling,
    tasks: Sequence[Task],
    role: RankRole,
    interventions: Sequence[Intervention] = (),
    monitor: str = "",
) -> RunRecord:
    """The constants of a run. All processes of a run call this together.

    Args:
        lens: The model.
        mode: "live" or "replay".
        record: What is recorded.
        settings: How tokens are drawn.
        tasks: All that is observed.
        role: What this process does.
        interventions: What is changed in the model.
        monitor: Digest of the monitor that judges it; "" without one.
    """
    config, model, known = lens.config, lens.model, lens.sizes
    here = {
        layer: bias_E.numpy()
        for layer in role.layers
        if layer in known.sparse_layers and (bias_E := selection_bias(model, layer)) is not None
    }
    biases: dict[int, np.ndarray] = {}
    for part in role.writers.gather(here) or [here]:
        biases |= part
    E = known.router.experts
    # Only rank 0 needs all; a router without a bias has none in the store either.
    unknown = np.full(E, np.nan)
    bias_SE = np.array([biases.get(layer, unknown) for layer in known.sparse_layers], np.float32)
    quantization = getattr(config, "quantization_config", None)
    run = RunRecord(
        mode=mode,
        model=lens.name,
        revision=lens.revision,
        **sizes(known),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=None if quantization is None else _quantization(quantization),
        attention=config._attn_implementation,
        experts_layout=lens.family.layout_of(config),
        seed=settings.seed,
        record=tuple(map(str, record)),
        expert_bias=bias_SE.reshape(-1, E),
        parallel=_parallel(lens, role),
        versions={"python": platform.python_version(), **{n: version_of(n) for n in VERSIONED}},
        sampling=asdict(settings) if mode == "live" else {},
        tokenizer=tokenizer_digest(lens.tokenizer),
        interventions=tuple(map(str, interventions)),
        planned=len(tasks),
    )
    return replace(run, fingerprint=_fingerprint(run, tasks, monitor))


def sizes(model: Sizes) -> dict[str, Any]:
    """The fields of a run that a model's sizes give."""
    rule = model.router
    return {
        "layers": model.layers,
        "sparse_layers": model.sparse_layers,
        "experts": rule.experts,
        "experts_per_token": rule.experts_per_token,
        "groups": rule.groups,
        "groups_kept": rule.groups_kept,
        "routed_scaling_factor": rule.routed_scaling_factor,
        "router": rule.words,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "hidden_size": model.hidden_size,
    }


def _quantization(config: object) -> str:
    """JSON of a quantisation config, its settings sorted."""
    values = config if isinstance(config, dict) else config.to_dict()  # type: ignore[attr-defined]
    return json.dumps(values, sort_keys=True, default=str)


def _parallel(lens: LoadedModel, role: RankRole) -> dict[str, int]:
    layout = asdict(parallel_of(lens.model))
    sizes = {name: layout[name] for name in ("tp_size", "ep_size", "pp_size")}
    devices = set(getattr(lens.model, "hf_device_map", {"": lens.device}).values())
    return {"processes": role.processes, "devices": len(devices), **sizes}


def _fingerprint(run: RunRecord, tasks: Sequence[Task], monitor: str) -> str:
    """Digest of what a command asks for: the same command has the same.

    Interventions have a digest of their own behind it, so that the same command with others is
    told from another command. How many processes share the problems out is left out: a run may be
    taken up by more or fewer.
    """
    names = ("mode", "model", "revision", "dtype", "quantization", "attention", "experts_layout")
    asked = {
        name: getattr(run, name) for name in (*names, "record", "sampling", "seed", "tokenizer")
    }
    if monitor:
        asked["monitor"] = monitor
    asked["sharded"] = {name: size for name, size in run.parallel.items() if name.endswith("_size")}
    asked["tasks"] = [
        (task.token_ids, task.limit, task.seed, task.source_trace_id) for task in tasks
    ]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    if not run.interventions:
        return digest
    acts = json.dumps(run.interventions).encode()
    return f"{digest}{WITH}{hashlib.sha256(acts).hexdigest()}"
