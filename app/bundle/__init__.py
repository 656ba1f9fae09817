"""A bundle: some traces as a folder of files that any web server can show, with no code on it.

The pages are the trace page's own scripts; what they would fetch from
:mod:`ringlens.app.trace.routes` lies there as files, under the same names.
"""

from ringlens.app.bundle.writer import write

__all__ = ["write"]
