"""Shared by all tests: helpers importable by name, and quiet libraries."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# Tiny models gain nothing from threads, and parallel tests lose much by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
