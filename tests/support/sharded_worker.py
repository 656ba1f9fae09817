"""Captures and replays with a model that is spread over the processes of torchrun.

torchrun … sharded_worker.py MODEL FOLDER LAYOUT …

A layout is such as tp_size=2,ep_size=2; its records go to the store FOLDER/LAYOUT, those of a few
layers to FOLDER/LAYOUT-few. With repeated=1 beside its sizes, decoding steps are such as a CUDA
graph repeats; where the model is on GPUs, as graphs, if its experts are not of several processes.
"""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import session_worker
from repeating import repeated

import ringlens as rl
from ringlens.analysis.roles.labelling import label_stored

RECORD = (
    *("logprobs", "routing", "router_logits", "expert_outputs", "heads"),
    *("resid_post@0+2", "attention:2@1+3/0+7"),
)
FEW = ("routing@3", "router_logits@1+3", "expert_outputs@1+3", "heads@2")
FORWARDS = []


def die_on_rank_1(progress):
    """End rank 1 without a word in the middle of a run."""
    FORWARDS.append(progress)
    if os.environ.get("RANK") == "1" and len(FORWARDS) > 10:
        os.kill(os.getpid(), signal.SIGKILL)


def record(model, folder, layout):
    store = Path(folder) / layout
    options = {name: int(value) for name, value in (x.split("=") for x in layout.split(",") if x)}
    dies, again = options.pop("dies", 0), options.pop("repeated", 0)
    lens = rl.load(model, dtype="float32", **options)
    lens.model.generation_config.eos_token_id = 1_000_000
    settings = {"max_new_tokens": 20, "batch_size": 3, "temperature": 1.0, "seed": 3}
    on_progress = die_on_rank_1 if dies else None
    prompts = session_worker.PROMPTS[:5]
    on_gpu = lens.device.type == "cuda"
    settings["decode"] = "auto" if again and on_gpu else "eager"  # a graph where there can be one
    with repeated() if again and not on_gpu else nullcontext():
        live = rl.capture(
            lens, prompts, store, record=RECORD, on_progress=on_progress, commit_every=0, **settings
        )
        rl.replay(lens, live, store, record=RECORD, batch_size=3).close()
        settings |= {"commit_every": 0, "on_stored": label_stored}
        rl.capture(lens, prompts[:2], f"{store}-few", record=FEW, **settings).close()


if __name__ == "__main__":
    for each in sys.argv[3:]:
        record(*sys.argv[1:3], each)
