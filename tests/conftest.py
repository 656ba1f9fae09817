"""Shared by all tests: quiet libraries, one thread."""

import os

# Tiny models gain nothing from threads, and parallel tests lose much by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
