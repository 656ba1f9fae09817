"""SharedBlock: memory that two processes share, and objects whose arrays lie in it.

The memory has no name, so nothing of it is left behind whatever process is killed, and the size of
/dev/shm, 64 MB in many containers, does not bound it.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGN = 64
"""Arrays begin at multiples of this many bytes."""


class SharedBlock:
    """Memory behind a file descriptor, as large as the largest object so far.

    Args:
        handle: File descriptor of a block that another process has made; None makes one.

    Attributes:
        handle: Its file descriptor, to be inherited by the other process.
    """

    def __init__(self, handle: int | None = None) -> None:
        self._owned = handle is None
        self.handle = _memory() if handle is None else handle
        self._map: mmap.mmap | None = None

    def pack(self, value: object) -> bytes:
        """Pickle an object, with its arrays copied into the block, where they replace the last's.

        Raises:
            OSError: There is not enough memory.
        """
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(value)
        memory = self._mapped(packer.size)
        for start, array in packer.arrays:
            # numpy copies without Python's lock.
            np.copyto(_array(memory, start, array.shape, array.dtype.str), array)
        return file.getvalue()

    def unpack(self, data: bytes) -> Any:
        """The object that the other process has packed; its arrays are those of the block."""
        return _Unpacker(io.BytesIO(data), self._mapped(0)).load()

    def close(self) -> None:
        """Give the memory back, once the other process has closed it too."""
        self._map = None
        os.close(self.handle)

    def _mapped(self, size: int) -> mmap.mmap:
        """The memory, at least so many bytes."""
        there = os.fstat(self.handle).st_size
        if self._owned and there < max(size, 1):
            there = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self.handle, there)
        if self._map is None or len(self._map) < there:
            access = mmap.ACCESS_WRITE if self._owned else mmap.ACCESS_READ
            self._map = mmap.mmap(self.handle, there, access=access)
        return self._map


def _memory() -> int:
    """A file in memory that has no name; elsewhere than on Linux, on the disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ringlens")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _array(memory: mmap.mmap, start: int, shape: tuple[int, ...], dtype: str) -> NDArray:
    return np.ndarray(shape, dtype, memory, start)


class _Packer(pickle.Pickler):
    """Leaves arrays out, and gives each a place in the block."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[tuple[int, NDArray]] = []
        self.size = 0

    def persistent_id(self, value: Any) -> tuple[int, tuple[int, ...], str] | None:
        if type(value) is not np.ndarray or value.dtype.kind not in "biuf":
            return None
        start = self.size
        self.arrays.append((start, value))
        self.size += -(-value.nbytes // ALIGN) * ALIGN
        return start, value.shape, value.dtype.str


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, memory: mmap.mmap) -> None:
        super().__init__(file)
        self._memory = memory

    def persistent_load(self, place: tuple[int, tuple[int, ...], str]) -> NDArray:
        return _array(self._memory, *place)
