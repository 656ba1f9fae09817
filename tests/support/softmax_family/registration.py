"""Nothing to register: transformers knows these models."""


def register_when_imported():
    """Nothing."""
