"""ring-nano, and a store of what its experts gave, for all tests of pruning."""

import pytest

import ringlens as rl


@pytest.fixture(scope="session")
def lens():
    return rl.load("ring-nano")


@pytest.fixture(scope="session")
def store(lens, tmp_path_factory):
    return rl.capture(
        lens, rl.problems("countdown", n=4), tmp_path_factory.mktemp("s") / "store",
        max_new_tokens=60, record=("routing", "expert_outputs"),
    )  # fmt: skip
