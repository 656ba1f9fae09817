"""A process that records onto a disk whose every flush takes a while; prints what came of it."""

import json
import logging
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiny_lens
from records import random_run, random_trace

from ringlens.observe.batch import TraceBuffer
from ringlens.observe.pipeline import commit_thread
from ringlens.observe.pipeline.block import Block
from ringlens.observe.pipeline.commit_thread import Recording
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.store import Alone, StoreWriter
from ringlens.store.schema.recorded_tables import HEAD_STATISTICS as FIELDS

LAYERS, HEADS, POSITIONS, BLOCKS = 40, 64, 256, 32
QUEUED, HELD = 2**22, 2**22
SLEEP = 0.02


@dataclass
class PendingBlock:
    """A block whose head statistics say where they belong."""

    start: int

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        return 4 * LAYERS * POSITIONS * HEADS * 2

    def open(self) -> Block:
        """The statistics, [L, B, t, H]: entropy is the position modulo 1000."""
        stop = self.start + POSITIONS
        pos = np.arange(self.start, stop)
        values = np.broadcast_to((pos % 1000)[:, None], (LAYERS, 1, POSITIONS, HEADS))
        return Block(
            start=self.start,
            stop=stop,
            token_ids=(4 + pos % 300)[None],
            fields={("heads", name): values.astype(np.float16) for name in FIELDS},
            layers={("heads", name): tuple(range(LAYERS)) for name in FIELDS},
            starts={"heads": self.start},
        )


def main() -> None:
    """Record as fast as can be, and say how long that waited and how much memory it took."""
    flush = os.fsync
    os.fsync = lambda handle: (time.sleep(SLEEP), flush(handle))[1]
    commit_thread.QUEUED["cpu"], commit_thread.HELD = QUEUED, HELD
    warnings: list[str] = []
    commit_thread.log.addFilter(lambda record: warnings.append(record.getMessage()) or False)
    logging.basicConfig(level=logging.WARNING)
    task = Task(token_ids=[], n_prompt=1, limit=10**9, item=0)
    buffer = TraceBuffer(task, tiny_lens.tokenizer(), 0, 0, (), "length", ("heads",))
    small = random_run()
    with StoreWriter(Path(sys.argv[1])) as writer:  # what is imported and allocated once
        writer.commit(writer.start_run(small), [random_trace(small)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with StoreWriter(Path(sys.argv[1])) as writer:
        run_id = writer.start_run(random_run(layers=LAYERS, heads=HEADS, record=("heads",)))
        started = time.monotonic()
        with Recording(writer, run_id, Alone()) as found:
            found.begin([buffer])
            for index in range(BLOCKS):
                found.put(PendingBlock(index * POSITIONS))
            found.end()
        seconds = time.monotonic() - started
        writer.finish_run(run_id)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    said = {"waited": found.waited, "seconds": seconds, "grown": grown * 1024}
    print(json.dumps(said | {"warnings": warnings, "traces": found.traces}))


if __name__ == "__main__":
    main()
