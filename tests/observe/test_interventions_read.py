"""Phases and words, read on the device: the same in one forward, in chunks, and in padded rows."""

import re

import pytest
import tiny_lens
import torch
from hypothesis import given
from hypothesis import strategies as st

import ringlens as rl
from ringlens.errors import ConfigError, ObservationError
from ringlens.interventions.place import PHASES, Place
from ringlens.observe.interventions.reader import Prompts, TextReader
from ringlens.observe.interventions.whereabouts import Forward
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup

PLACES = [Place((phase,)) for phase in PHASES]
WAIT = Place(words=("wait", "let me"))
NEAR = Place(words=("wait", "let me"), reach=4)


@pytest.fixture(scope="module")
def nano():
    return rl.load("ring-nano")


@pytest.fixture(scope="module")
def reader(nano):
    return TextReader(nano, [*PLACES, WAIT, NEAR])


def forward(ids, start=0, mask=None):
    valid = None if mask is None else torch.tensor(mask).bool()
    ids = torch.tensor(ids)
    return Forward(ids, tuple(ids.shape), start, valid, ids.device)


def read(reader, ids, cuts=(), prompts=None):
    """Where each place is in a text, read in chunks."""
    reader.begin(prompts)
    ends = [*cuts, len(ids)]
    parts = []
    for start, stop in zip([0, *ends], ends, strict=False):
        if start < stop:
            found = reader.read(forward([ids[start:stop]], start))
            parts.append(torch.stack([found[p][0] for p in (*PLACES, WAIT, NEAR)]))
    return torch.cat(parts, dim=1)


def phases(found):
    assert (found[:3].sum(0) == 1).all()  # each token is in one phase
    return [PHASES[i] for i in found[:3].int().argmax(0).tolist()]


QUESTION = "<role>HUMAN</role>Make 24 from 4, 6.<|role_end|>"
ANSWER = "<role>ASSISTANT</role>"
TEXTS = {
    "a thought and its answer": f"{QUESTION}{ANSWER}<think>\n24.\n</think>\n(4 * 6)<|role_end|>",
    "no mark of the thought's end": f"{QUESTION}{ANSWER}<think>\n4 * 6 = 24.",
    "no thought": f"{QUESTION}{ANSWER}It is 4 * 6.<|role_end|>",
    "a thought that opens on a line of its own": (
        f"{QUESTION}{ANSWER}Well.\n<think>\nHm.\n</think>\nSo.<|role_end|>"
    ),
    "marks in the question": (
        f"<role>HUMAN</role>What is <think>? And </think>?<|role_end|>{ANSWER}<think>\nA mark.\n"
        "</think>\nMarks.<|role_end|>"
    ),
    "several turns": (
        f"{QUESTION}{ANSWER}<think>\nEasy.\n</think>\n(4 * 6)<|role_end|>"
        f"<role>HUMAN</role>And 10?<|role_end|>{ANSWER}<think>\n4 + 6.\n</think>\n(4 + 6)"
    ),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_phases_are_those_of_the_whole_text(nano, reader, text):
    """Where nothing that follows changes how the text reads."""
    ids = nano.encode(text)
    wanted = markup(nano.tokenizer).read(token_text(nano.tokenizer, ids), 0, written=False)
    found = phases(read(reader, ids))
    pieces = token_text(nano.tokenizer, ids).pieces
    differ = [i for i, (a, b) in enumerate(zip(found, wanted.phase, strict=True)) if a != b]
    # Of a mark of several tokens only the last one can tell; it opens the turn of another.
    assert all(pieces[i] in ("<role>", "HUMAN", "ASSISTANT") for i in differ), differ


def test_what_a_model_writes_is_never_prompt(nano, reader):
    prompt = nano.encode(f"{QUESTION}{ANSWER}<think>\n")
    ids = prompt + nano.encode("A <role>HUMAN turn.\n</think>\nA turn.")
    found = phases(read(reader, ids, prompts=Prompts([len(prompt)], [True])))
    wanted = markup(nano.tokenizer).read(token_text(nano.tokenizer, ids), len(prompt)).phase
    assert found == wanted
    assert set(found) == set(PHASES)


def test_words_are_found_where_they_are_complete(nano, reader):
    text = "Wait, let me see: waiting awaits. LET ME wait"
    ids = nano.encode(text)
    pieces = token_text(nano.tokenizer, ids).pieces
    found = read(reader, ids)
    ends, at = [], 0
    for piece in pieces:
        ends.append(at := at + len(piece))
    hits = found[3].nonzero().flatten().tolist()
    for hit in hits:  # each stands at the end of a word, as far as the text is known
        assert re.search(r"(?<![a-z0-9])(wait|let me)(?![a-z0-9])", text[: ends[hit]].lower())
    whole = [m.end() for m in re.finditer(r"(?<!\w)(wait|let me)(?!\w)", text.lower())]
    for end in whole:  # and every word is found, at the token that has its last letter
        assert any(ends[hit] - len(pieces[hit]) < end <= ends[hit] for hit in hits), end
    reach = {pos for hit in hits for pos in range(hit, hit + 4)}
    assert set(found[4].nonzero().flatten().tolist()) == reach & set(range(len(ids)))


tokens = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<role>",
            "</role>",
            "HUMAN",
            "ASSISTANT",
            "\n",
            "wait",
            " Wait",
            "let",
            " me",
            "er",
            "<|role_end|>",
            ".",
            " 24",
            "é",
        ]
    ),
    min_size=1,
    max_size=40,
)


@given(tokens, st.lists(st.integers(0, 60), max_size=5), st.integers(0, 6))
def test_chunks_and_padding_change_nothing(nano, reader, pieces, cuts, pad):
    ids = [i for piece in pieces for i in nano.encode(piece)]
    whole = read(reader, ids)
    assert torch.equal(read(reader, ids, sorted(min(cut, len(ids)) for cut in cuts)), whole)
    steps = read(reader, ids, range(1, len(ids)))
    assert torch.equal(steps, whole)
    reader.begin(None)
    row = [nano.pad_token_id] * pad + ids
    other = [5] * len(row)
    mask = [[0] * pad + [1] * len(ids), [1] * len(row)]
    found = reader.read(forward([row, other], mask=mask))
    padded = torch.stack([found[p][0] for p in (*PLACES, WAIT, NEAR)])
    assert torch.equal(padded[:, pad:], whole)
    assert not padded[:, :pad].any()


@given(tokens, st.integers(1, 30))
def test_what_follows_changes_nothing_before_it(nano, reader, pieces, cut):
    ids = [i for piece in pieces for i in nano.encode(piece)]
    cut = min(cut, len(ids))
    assert torch.equal(read(reader, ids)[:, :cut], read(reader, ids[:cut]))


def test_a_cache_may_be_cut_and_continued_otherwise(nano, reader):
    ids, other = nano.encode("<think>wait and see</think> so"), nano.encode(" let me think")
    reader.begin(None)
    reader.read(forward([ids], 0))
    found = reader.read(forward([other], 4))
    wanted = read(reader, ids[:4] + other)
    assert torch.equal(torch.stack([found[p][0] for p in (*PLACES, WAIT, NEAR)]), wanted[:, 4:])


def test_beams_are_read_each_as_its_own_text(nano):
    """A beam search exchanges rows; what each row says goes with it."""
    ids = torch.tensor([nano.encode("<think>so wait")[-4:], nano.encode("<think>so that")[-4:]])
    act = rl.Ablate(5, 3, words="wait", reach=2)
    with nano.intervene(act) as effect:
        cache = nano.model(ids, use_cache=True).past_key_values
        before = effect.changes[0].tokens
        reordered(nano.model, cache, [1, 1])
        nano.model(ids[:, -1:], past_key_values=cache)
        assert effect.changes[0].tokens == before == 1
        reordered(nano.model, cache, [0, 1])
    assert not hasattr(nano.model, "_reorder_cache")
    with nano.intervene_by_row([act, act]), pytest.raises(ObservationError, match="beam search"):
        reordered(nano.model, nano.model(ids, use_cache=True).past_key_values, [1, 0])


def reordered(model, cache, rows):
    """As `generate` does in a beam search."""
    rows = torch.tensor(rows)
    if hasattr(model, "_reorder_cache"):
        model._reorder_cache(cache, rows)
    else:
        cache.reorder_cache(rows)


def test_two_texts_in_turn_are_not_read_as_one(nano):
    """Each with its own cache: the second would be taken for the first one's beginning."""
    first, second = (
        torch.tensor([nano.encode(text)]) for text in ("so wait and see", "nothing of the kind, no")
    )
    act, on = rl.Ablate(5, 3, words="wait", reach=9), {"use_cache": True}
    with nano.intervene(act) as effect:
        cache = nano.model(first[:, :-1], **on).past_key_values
        nano.model(first[:, -1:], past_key_values=cache)
        seen = effect.changes[0].tokens
        nano.model(second)  # a text of its own, which ends the first
        for _ in range(2):  # having been refused changes nothing
            with pytest.raises(ObservationError, match="continues another cache"):
                nano.model(first[:, -1:], past_key_values=cache)
        other = nano.model(second[:, :-1], **on).past_key_values
        with pytest.raises(ObservationError, match="continues another cache"):
            nano.model(first[:, -1:], past_key_values=cache)
        nano.model(second[:, -1:], past_key_values=other)
    assert effect.changes[0].tokens == seen > 1
    with nano.intervene(rl.Ablate(5, 3, span=(2, 4))):  # positions need no reading
        caches = [nano.model(ids, **on).past_key_values for ids in (first, second)]
        nano.model(first[:, -1:], past_key_values=caches[0])


def test_what_cannot_be_read_is_refused(nano):
    text = "Make 24 from 4, 6."
    ids = torch.tensor([nano.encode(text)])
    cache = nano.model(ids, use_cache=True).past_key_values
    with (
        nano.intervene(rl.Ablate(5, 3, phase="think")),
        pytest.raises(ObservationError, match="of which 0 ran inside this block"),
    ):
        nano.model(ids[:, -1:], past_key_values=cache)
    with (
        nano.intervene(rl.Ablate(5, 3, words="wait")),
        pytest.raises(ConfigError, match="given embeddings"),
    ):
        nano.model(inputs_embeds=nano.model.get_input_embeddings()(ids))
    with nano.intervene(rl.Ablate(5, 3, span=(2, 4))) as effect:
        nano.model(inputs_embeds=nano.model.get_input_embeddings()(ids))
    assert effect.changes[0].tokens == 2


def test_other_tokenizers_are_read_too():
    """One whose words are separated by spaces that no token has."""
    lens = tiny_lens.lens()
    ids = [5, tiny_lens.THINK, 7, 8, 9, tiny_lens.END_THINK, 7, 10]
    reader = TextReader(lens, [*PLACES, Place(words=("t7.",)), Place(words=("t8. t9.",), reach=2)])
    found = reader.read(forward([ids]))
    masks = [found[p][0].int().tolist() for p in found]
    assert masks[1] == [0, 1, 1, 1, 1, 1, 0, 0]
    assert masks[3] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert masks[4] == [0, 0, 0, 0, 1, 1, 0, 0]
