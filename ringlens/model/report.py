"""A plan as plain values, for JSON: every number that the plan holds; bytes unless named else."""

from __future__ import annotations

from typing import Any

from ringlens.model.launch import Launch, commands
from ringlens.model.placement import Load
from ringlens.model.plan import Plan
from ringlens.model.size import KEPT, QUANTIZED
from ringlens.model.way import Way


def report(plan: Plan, launch: Launch) -> dict[str, Any]:
    """All numbers of a plan and its commands."""
    s, size = plan.setting, plan.setting.size
    return {
        "model": launch.source,
        "precision": s.held.name,
        "dtype": s.held.dtype,
        "quantization": s.held.quantization,
        "experts": s.layout,
        "stays_unquantized": list(KEPT if s.held.quantization else (*QUANTIZED, *KEPT)),
        "parameters": {"total": size.total, "active": size.active, **size.parameters},
        "weights": {
            "total": size.bytes,
            "sparse_layer": _layer(plan, sparse=True),
            "dense_layer": _layer(plan, sparse=False),
            "fusing": size.fusing_bytes,
        },
        "work": {
            "context": s.work.context,
            "batch": s.work.batch,
            "prefill": min(s.work.prefill, s.work.context),
            "max_position_embeddings": s.config.max_position_embeddings,
        },
        "cache": {"layer": s.cache, "total": s.cache * s.config.num_hidden_layers},
        "activations": {**s.activations, "peak": max(s.activations.values())},
        "recording": {
            "sparse_layer": s.recording.sparse_layer,
            "dense_layer": s.recording.dense_layer,
            "host": s.recording.host,
        },
        "devices": [{"name": d.name, "capacity": d.capacity} for d in plan.devices],
        "fits": plan.ways[0].fits,
        "ways": [_way(plan, way, launch) for way in plan.ways],
        "changes": [{"what": c.what, "value": c.value, "says": c.sentence} for c in plan.changes],
        "largest": plan.largest,
    }


def _layer(plan: Plan, *, sparse: bool) -> int | None:
    """Bytes of one sparse or dense layer; None where there is none."""
    layers = plan.setting.config.sparse_layers
    dense = range(plan.setting.config.first_k_dense_replace)
    chosen = layers if sparse else dense
    if not chosen:
        return None
    return plan.setting.size.weight_bytes[f"model.layers.{chosen[0]}"]


def _way(plan: Plan, way: Way, launch: Launch) -> dict[str, Any]:
    return {
        "name": way.name,
        "possible": way.possible,
        "fits": way.fits,
        "note": way.note,
        "tp_size": way.tp_size,
        "ep_size": way.ep_size,
        "pp_size": way.pp_size,
        "automatic": way.automatic,
        "device_map": way.device_map,
        "devices": [_load(load) for load in way.loads],
        "commands": commands(plan, way, launch),
    }


def _load(load: Load) -> dict[str, Any]:
    return {
        "name": load.device.name,
        "capacity": load.device.capacity,
        "units": list(load.units),
        "reserve": load.reserve,
        "weights": load.weights,
        "cache": load.cache,
        "recording": load.recording,
        "working": load.working,
        "fusing": load.fusing,
        "used": load.used,
        "free": load.free,
    }
