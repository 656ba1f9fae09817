"""Captures the golden model's thoughts in a process that tests kill, share out or watch.

python session_worker.py STORE TOKENS [PROMPTS]
"""

import sys

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


if __name__ == "__main__":
    store, *numbers = sys.argv[1:]
    capture(store, *map(int, numbers)).close()
