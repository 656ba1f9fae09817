"""The models that people look into."""

import pytest
import tiny_lens

import ringlens as rl


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


@pytest.fixture(scope="module", params=["fused", "modules", "ring-nano"])
def any_lens(request):
    return rl.load() if request.param == "ring-nano" else tiny_lens.lens(request.param)
