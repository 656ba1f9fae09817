"""The environment of a worker under torchrun."""

import os

from paths import SUPPORT

WORKER = SUPPORT / "session_worker.py"


def environment():
    tests = str(WORKER.parent)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
