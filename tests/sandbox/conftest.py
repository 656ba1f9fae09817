"""The store at the module's ``path``."""

import pytest

from ringlens.store import Store


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store
