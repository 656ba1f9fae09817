"""A lens on the golden checkpoint, with a tokenizer whose words are t0. … t383.."""

import golden_data
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ringlens.lens import Lens

THINK, END_THINK = 2, 3


def word(token_id):
    return f"t{token_id}."  # the stop keeps the special t1. from matching inside t166.


def tokenizer():
    words = {word(i): i for i in range(384) if i not in (THINK, END_THINK)}
    words |= {"<think>": THINK, "</think>": END_THINK}
    backend = Tokenizer(models.WordLevel(words, unk_token=word(0)))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=word(0), eos_token=word(1))


def lens(layout="fused", attention="sdpa"):
    return Lens(golden_data.load(layout, attention), tokenizer(), "ring-tiny")


def prompt(*token_ids):
    return " ".join(map(word, token_ids))
