"""Files that end: what is asked of one before it is opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def regular(path: str | Path) -> os.stat_result:
    """What the disk says of a regular file, or of the one that a link leads to.

    Opening a pipe waits for a writer, and reading a device may never end, so both are refused here.

    Raises:
        OSError: It is missing, a folder, a pipe, a socket or a device.
        ValueError: Its name holds a NUL.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder and no file", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no file but a pipe, socket or device", str(path))
    return found
