"""Captures the golden model's thoughts in a process that tests kill, share out or watch.

python session_worker.py STORE TOKENS [PROMPTS [FOLDER STOP…]]

At each STOP, a number of reports of its progress (one a forward), it waits for a file
FOLDER/go-STOP.
"""

import sys
import time
from pathlib import Path

import tiny_lens

import ringlens as rl

PROMPTS = [
    tiny_lens.prompt(74, 276, 166, 285, 103, 65, 353),
    tiny_lens.prompt(37, 184, 307),
    tiny_lens.prompt(9, 50, 173, 343, 39, 302, 52, 180, 55, 93),
    tiny_lens.prompt(320, 170, 308, 347, 44),
    tiny_lens.prompt(21, 22, 23, 24),
    tiny_lens.prompt(301, 211, 111),
]


def lens():
    """A lens whose traces never end by themselves."""
    found = tiny_lens.lens()
    found.model.generation_config.eos_token_id = 1_000_000
    return found


def capture(store, tokens, prompts=None, **options):
    settings = {"batch_size": 2, "temperature": 1.0, "seed": 3, "commit_every": 0}
    return rl.capture(
        lens(), PROMPTS[:prompts], store, max_new_tokens=tokens, **(settings | options)
    )


def waiting(folder, stops):
    """A callback that waits at each stop until it may go on.

    Calls are counted, not tokens: those are counted where they are recorded, and the model may be
    far ahead.
    """
    calls, left = 0, sorted(map(int, stops))

    def on_progress(progress):
        nonlocal calls
        calls += 1
        if left and calls == left[0]:
            while not (Path(folder) / f"go-{left[0]}").exists():
                time.sleep(0.01)
            left.pop(0)

    return on_progress


if __name__ == "__main__":
    store, tokens, *more = sys.argv[1:]
    prompts = int(more[0]) if more else None
    on_progress = waiting(more[1], more[2:]) if more[1:] else None
    capture(store, int(tokens), prompts, on_progress=on_progress).close()
