"""Captures and replays that kill themselves at an instant of their own choice.

A process that has the imports and the model does each of them in a fork, so a kill takes little
longer than the capture. An instant is a number: so many steps (forwards, blocks taken, files
staged, published or registered) happen before the process gets SIGKILL.
"""

import json
import os
import signal
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import warm

RECORD = (
    *("logprobs", "routing", "router_logits", "expert_outputs", "heads"),
    *("resid_post@1", "attention:2@1+3/0+7"),
)


class Killer(AbstractContextManager):
    """Runs captures in forks of one process, which itself is forked from the warm one."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        asked = Path(self._folder.name) / "asked"
        os.mkfifo(asked)
        self._process = warm.Process([__file__, asked], stderr=warm.DEVNULL)
        self._asked = asked.open("w")  # once the process reads it

    def __exit__(self, *error):
        self._asked.close()
        self._process.communicate()
        self._folder.cleanup()

    def run(self, store, call, die_at=0, kinds=(), **options):
        """Run ``call`` ("capture" or "replay"); the steps that it took, None if it was killed."""
        asked = [str(store), call, die_at, list(kinds), options]
        self._asked.write(json.dumps(asked) + "\n")
        self._asked.flush()
        return json.loads(self._process.stdout.readline())


class Steps:
    """Counts steps; at the one that is wanted the process dies."""

    def __init__(self, die_at, kinds):
        self.die_at, self.kinds, self.count = die_at, kinds, 0

    def step(self, kind):
        if self.kinds and kind not in self.kinds:
            return
        self.count += 1
        if self.count == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner, name):
        """Each call of a function is two steps: before it begins, and behind its end."""
        function = getattr(owner, name)

        def stepping(*args, **kwargs):
            self.step(f"before {name}")
            result = function(*args, **kwargs)
            self.step(f"behind {name}")
            return result

        setattr(owner, name, stepping)


def watch_all(lens, steps):
    """Count every forward, every block, and every step of a commit."""
    from ringlens.observe.pipeline.trace_buffer import TraceBuffer
    from ringlens.store.commit.files import CommitFiles
    from ringlens.store.manifest.manifest import Manifest
    from ringlens.store.write import transaction

    steps.watch(lens.model, "forward")
    steps.watch(TraceBuffer, "add")
    for owner, name in (
        (CommitFiles, "stage"),
        (CommitFiles, "_stage_job"),
        (transaction, "publish"),
        (Manifest, "reserve"),
        (Manifest, "complete"),
    ):
        steps.watch(owner, name)


def prompts(lens, lengths):
    """Prompts of some lengths."""
    import tiny_lens

    return [
        tiny_lens.prompt(*(4 + (37 * i + 11 * n) % 370 for n in range(length)))
        for i, length in enumerate(lengths)
    ]


def run(lens, store, call, steps, lengths, prefill=None, **options):
    """Capture, or replay."""
    import ringlens as rl
    from ringlens.observe import batch, session
    from ringlens.observe.pipeline import recorder

    recorder.STEPS = 16  # so that few tokens make several blocks, and commits
    watch_all(lens, steps)
    settings = {"record": RECORD, "commit_every": 0} | options
    if call == "replay":
        rl.replay(lens, prompts(lens, lengths), store, prefill=prefill or 1000, **settings).close()
        return
    if prefill is not None:
        observer = batch.Observer
        session.Observer = lambda *facts: replace(observer(*facts), prefill=prefill)
    rl.capture(lens, prompts(lens, lengths), store, **settings).close()


def main():
    """Answer one line for each line that is asked."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = open(sys.argv[1])  # noqa: SIM115 (until the end)
    import session_worker

    lens = session_worker.lens()
    for line in asked:
        store, call, die_at, kinds, options = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            steps = Steps(die_at, kinds)
            run(lens, Path(store), call, steps, **options)
            os.write(write, str(steps.count).encode())
            os._exit(0)
        os.close(write)
        status = os.waitpid(child, 0)[1]
        counted = os.read(read, 100).decode()
        os.close(read)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not counted and not killed:
            raise SystemExit(f"{call} ended with {status}")
        print(json.dumps(int(counted) if counted else None), file=answers, flush=True)


if __name__ == "__main__":
    main()
