"""Distils a student in a process that tests kill, or in several that share the texts out.

python distil_worker.py STUDENT STORE OUT TEACHER [ROW]

At its ROW-th row of the curve the process kills itself.
"""

import os
import signal
import sys

from ringlens.distil import Distillation, distil
from ringlens.store import Store

SETTINGS = {
    **{"tokens": 900, "batch_tokens": 120, "every": 2, "held_out": 0.25},
    **{"learning_rate": 4e-3, "warmup_steps": 2},
}


def run(student, store, out, teacher, dies_at=None):
    rows = []

    def on_row(row):
        rows.append(row)
        if len(rows) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with Store(store) as opened:
        settings = Distillation(**SETTINGS)
        return distil(
            student, opened, out, teacher=teacher, settings=settings, device="cpu", on_row=on_row
        )


if __name__ == "__main__":
    given = sys.argv[1:5]
    run(*given, *map(int, sys.argv[5:]))
