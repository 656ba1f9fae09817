"""The store at the module's ``path``, and the app that shows it."""

import pytest

from ringlens.app import make_app
from ringlens.store import Store


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def app(path):
    app = make_app(path)
    yield app
    app.server.extensions["ringlens.sources"].close()


@pytest.fixture(scope="module")
def client(app):
    return app.server.test_client()
