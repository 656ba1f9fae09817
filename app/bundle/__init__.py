"""A bundle: what a store shows, to be carried to those who have nothing installed.

A folder of files that any web server shows, or one HTML file that opens from disk. The pages are
the dashboard's own scripts; what they ask of a server lies there as files or blocks of the page,
under the same paths. `traces` holds all of some traces, `aggregates` sums that reveal no token.
"""

from ringlens.app.bundle.aggregates import aggregates
from ringlens.app.bundle.contents import Entry, traces
from ringlens.app.bundle.folder import to_folder
from ringlens.app.bundle.said import authors
from ringlens.app.bundle.single_file import to_file
from ringlens.app.bundle.sizes import check_fits, estimate, megabytes, size_of

__all__ = [
    "Entry",
    "aggregates",
    "authors",
    "check_fits",
    "estimate",
    "megabytes",
    "size_of",
    "to_file",
    "to_folder",
    "traces",
]
