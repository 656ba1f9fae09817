"""The one exception family. Every message says what is wrong, with which value, and what to do."""


class RinglensError(Exception):
    """Base of every error that ringlens raises on purpose."""


class ConfigError(RinglensError, ValueError):
    """A setting or a model configuration that cannot be used."""


class CheckpointError(RinglensError):
    """A checkpoint that is malformed, or whose tensors do not fit the architecture."""


class ModelNotFoundError(RinglensError, FileNotFoundError):
    """No model under the given name or folder."""


class ProblemError(RinglensError, ValueError):
    """A problem set that is missing, empty or malformed."""


class ObservationError(RinglensError, RuntimeError):
    """An observation that cannot be made, or that a record may not hold."""


class StoreError(RinglensError):
    """A store that is missing, damaged, read-only, full, or of another format."""


class NotInStoreError(StoreError, KeyError):
    """A trace, run, layer or table that the store does not hold."""

    def __str__(self) -> str:
        """Show the sentence, not KeyError's repr of it."""
        return str(self.args[0]) if self.args else ""


class ServingError(RinglensError):
    """A server that cannot be reached or refuses, or an answer that cannot be imported."""


class RequestError(RinglensError, ValueError):
    """A malformed request to the dashboard, of a kind that its pages never send."""


class SandboxError(RinglensError, RuntimeError):
    """A sandbox that cannot be made on this system, or does not start."""
