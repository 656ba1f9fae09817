"""Whether Triton is installed: CUDA builds of torch for Linux bring it, others do not."""

from __future__ import annotations

import logging
from functools import cache

log = logging.getLogger(__name__)


@cache
def triton_installed() -> bool:
    """Whether Triton can be imported; says once what is lost where it cannot."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        log.warning(
            "no Triton (%s): head statistics take a second pass of flash attention, two to three "
            "times the work, and their entropy is less exact in 16 bits; a router record takes "
            "many small kernels; a decoding step copies the weights of chosen experts. Install "
            "triton.",
            error,
        )
        return False
    return True
