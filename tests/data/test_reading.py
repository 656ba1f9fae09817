"""Sentences of told thoughts are read back: role and flags, and the same in other words."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlens.data.tasks import congruences, graphs, mix, numbers, products, reading

MODULES = (congruences, graphs, numbers, products)


@given(st.sampled_from(mix.KINDS), st.integers(0, 2**40))
def test_what_was_told_is_read_back_and_said_in_other_words(kind, seed):
    rng = random.Random(seed)
    trace = kind.tell(rng, kind.sample(rng))
    for step in trace.steps[:-1]:
        text = trace.text_of(step)
        meant = reading.read(kind.task, text)
        assert meant == (step.role, step.is_backtrack, step.is_hypothesis), text
        other = reading.reworded(rng, kind.task, text)
        if other is not None:
            assert other != text
            again = reading.read(kind.task, other)
            assert again is not None and again.role == step.role, other


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.TASK)
def test_every_phrase_of_a_task_is_heard(module):
    """Phrases are the tuples of texts with the names of capitals, those of prompts left out."""
    written = {
        phrase
        for name, values in vars(module).items()
        if name.isupper() and not name.startswith("_") and name != "PROMPTS"
        and isinstance(values, tuple) and all(isinstance(value, str) for value in values)
        for phrase in values
    }  # fmt: skip
    heard = {phrases.chosen for _, _, phrases in reading._phrases(module.TASK)}
    assert written <= heard


def test_what_was_never_told_means_nothing():
    assert reading.read("products", "Let me think about it.") is None
    assert reading.read("products", "47 * 30 = 1,410. And more words.") is None
    assert reading.reworded(random.Random(1), "products", "Let me think about it.") is None
