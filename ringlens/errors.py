"""The one exception family. Every message says what is wrong, with which value, and what to do."""


class RinglensError(Exception):
    """Base of every error that ringlens raises on purpose."""


class ConfigError(RinglensError, ValueError):
    """A setting or a model configuration that cannot be honoured."""


class CheckpointError(RinglensError):
    """A checkpoint whose files, tensors or shapes do not fit the architecture."""


class ModelNotFoundError(RinglensError, FileNotFoundError):
    """No model under the given name or folder."""


class ProblemError(RinglensError, ValueError):
    """A problem set that is missing, empty or malformed."""


class ObservationError(RinglensError, RuntimeError):
    """What was observed is not what a record may hold."""


class StoreError(RinglensError):
    """A store that is missing, damaged, read-only, full, or of another format."""


class NotInStoreError(StoreError, KeyError):
    """A trace, run, layer or table that the store does not hold."""

    def __str__(self) -> str:
        """Show the sentence, not KeyError's repr of it."""
        return str(self.args[0]) if self.args else ""


class ServingError(RinglensError):
    """A server that cannot be reached, refuses, or answers with what cannot be imported."""


class RequestError(RinglensError, ValueError):
    """A request to the dashboard that none of its pages makes."""


class SandboxError(RinglensError, RuntimeError):
    """A query that is to run in the sandbox, where there is none to be had."""
