"""Whether the dashboard may write annotations, and in whose name."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ringlens.errors import ConfigError
from ringlens.store.annotations.annotation import system_user
from ringlens.store.storage.folder import Folder


@dataclass(frozen=True)
class Writing:
    """What whoever serves the dashboard lets its pages write.

    Attributes:
        author: Name that the dialog proposes; "" if the system knows none.
        refused: Why nothing may be written; "" if annotations may.
    """

    author: str = ""
    refused: str = "this dashboard is read-only"

    @classmethod
    def of(cls, author: str | None = None) -> Writing:
        """May write, in the name of an author; of the system's user if None."""
        try:
            return cls(author=system_user() if author is None else author, refused="")
        except ConfigError:  # the dialog asks for a name
            return cls(refused="")

    def refusal(self, folder: Folder) -> str:
        """Why nothing can be written to a store; "" if annotations can."""
        if self.refused:
            return self.refused
        if folder.is_local and not os.access(folder.path, os.W_OK):
            return f"the store {folder} cannot be written: you have no permission"
        return ""


NO_TOKEN = "without a token anybody on this machine could write: this dashboard is read-only"
READ_ONLY = Writing()
