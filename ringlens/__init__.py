"""Ringlens: see which experts a Ring model chose, why, and what its heads looked at."""

from ringlens.errors import RinglensError
from ringlens.model.registration import register_when_imported

__version__ = "0.1.0"
__all__ = ["RinglensError", "__version__"]

register_when_imported()
