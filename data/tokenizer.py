"""The tokenizer of ring-nano: byte-level, numbers whole, Ring's role markup.

The vocabulary holds the 256 bytes, the numbers 0 … 999, and the words of the generator's sentences;
a piece of text that is one of them is one token, every other piece falls back to its bytes. So any
text encodes, and decodes to itself.

    python -m ringlens.data.tokenizer DIR
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from ringlens.data import countdown
from ringlens.data.tasks import mix

PAD = "<|endoftext|>"
EOS = "<|role_end|>"
THINK = "<think>"
MARKUP = (PAD, EOS, "<role>", "</role>")
THINKING = (THINK, "</think>")

# Words of a search. They stand before all others: the shipped checkpoints know them by these ids.
SEARCH_WORDS = (
    "(( )) ,Ġ .Ċ :Ġ ASSISTANT Check HUMAN Let MakeĠ SYSTEM Wait Ġ( Ġ(( Ġ* Ġ*Ġ Ġ+ Ġ+Ġ Ġ- Ġ-Ġ Ġ/ Ġ/Ġ "
    "Ġ=Ġ ĠBack ĠThey Ġa Ġat Ġdead Ġeach Ġend ĠfromĠ ĠgiveĠ Ġis ĠleavingĠ Ġme ĠneedĠ Ġnot Ġnumber "
    "Ġnumbers Ġonce Ġthat Ġthere Ġtime ĠtoĠ ĠtryĠ Ġtwo Ġusing"
)

# A number; a word or signs with the space before it, and with the space after it where a number
# follows (so that a number is the same token wherever it stands); line ends stay with their signs.
PIECES = (
    r"\p{N}{1,3}"
    r"| ?\p{L}+(?: (?=\p{N}))?"
    r"| ?[^\s\p{L}\p{N}]+(?: (?=\p{N})|[\r\n]+)?"
    r"|\s+(?!\S)|\s+"
)

_NUMBER = re.compile(r"\d+")

CHAT_TEMPLATE = """\
{%- set names = {'system': 'SYSTEM', 'user': 'HUMAN', 'assistant': 'ASSISTANT'} -%}
{%- for message in messages -%}
{{- '<role>' + names[message['role']] + '</role>' + message['content'] + '<|role_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<role>ASSISTANT</role><think>\\n' -}}
{%- endif -%}
"""


def render(prompt: str, completion: str) -> str:
    """One question and its answer as the chat template writes them."""
    return f"<role>HUMAN</role>{prompt}{EOS}<role>ASSISTANT</role>{completion}{EOS}"


def build() -> Tokenizer:
    """The tokenizer, always the same.

    Numbers of four digits have a comma, so three digits with leading zeros are tokens too.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = [str(number) for number in range(countdown.LARGEST + 1)]
    padded = [f"{number:03d}" for number in range(100)]
    texts = [(trace.prompt, trace.completion) for trace in islice(mix.traces(seed=0), 2000)]
    begin = (*alphabet, *numbers, *SEARCH_WORDS.split(), *MARKUP, *THINKING)
    vocabulary = dict.fromkeys((*begin, *padded, *_words(texts)))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(vocabulary)},
            merges=[],
            ignore_merges=True,  # a piece that is in the vocabulary is one token
        )
    )
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.ByteLevel()
    # As in Ring's own tokenizers, the thinking markup is no special token: it outlives decoding
    # with skip_special_tokens=True.
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in MARKUP])
    tokenizer.add_tokens([AddedToken(text) for text in THINKING])
    return tokenizer


def save(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a tokenizer's files into ``folder`` in the form that transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "padding_side": "left",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _words(texts: Iterable[tuple[str, str]]) -> list[str]:
    """All pieces of prompts and completions, and of the markup, that are no numbers."""
    splitter = _splitter()
    lines: set[str] = set()
    for prompt, completion in texts:
        told = _NUMBER.sub("7", completion)  # which number it is changes no word around it
        lines.update((_NUMBER.sub("7", prompt), *told.splitlines(keepends=True)))
    found = {"HUMAN", "ASSISTANT", "SYSTEM"}
    for line in lines:
        text = line.removeprefix(THINK).removeprefix("</think>")
        found.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    return sorted(piece for piece in found if not piece.isdecimal())


if __name__ == "__main__":
    save(Path(sys.argv[1]), build())
