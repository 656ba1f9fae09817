"""What an import knows of the model that answered."""

import pytest

from ringlens.serving.served_model import ServedModel


@pytest.fixture(scope="module")
def model():
    return ServedModel.read("ring-nano")
