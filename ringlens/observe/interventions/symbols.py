"""The symbols of tokens: bytes of their text, and added tokens that marks are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tokenizers import pre_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES = 256

ALNUM = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
SPACES = frozenset(b" \t\r\n\v\f")


def symbols_of(
    tokenizer: PreTrainedTokenizerBase, atoms: Sequence[str], vocabulary: int
) -> list[tuple[int, ...]]:
    """The symbols of every token id of a model.

    Args:
        tokenizer: Its tokenizer.
        atoms: Texts of added tokens that are symbols of their own, numbered from `BYTES` on.
        vocabulary: Token ids of the model; those that the tokenizer lacks have no symbols.
    """
    backend = tokenizer.backend_tokenizer
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    number = {text: BYTES + place for place, text in enumerate(atoms)}
    vocab = {index: text for text, index in backend.get_vocab().items() if index < vocabulary}
    bytes_of = _byte_level() if _is_byte_level(backend) else None
    behind = {} if bytes_of is not None else _behind_another(backend, vocab)
    found: list[tuple[int, ...]] = [()] * vocabulary
    for index, text in vocab.items():
        if index in added:
            known = added[index]
            found[index] = (number[known],) if known in number else tuple(known.encode())
        elif bytes_of is not None and all(letter in bytes_of for letter in text):
            found[index] = tuple(bytes_of[letter] for letter in text)
        else:
            found[index] = tuple(behind.get(index, text).encode())
    return found


def symbols_in(text: str, atoms: Sequence[str]) -> tuple[int, ...]:
    """The symbols of a mark: atoms that stand in it, and the bytes between them."""
    found: list[int] = []
    while text:
        atom = next((a for a in sorted(atoms, key=len, reverse=True) if text.startswith(a)), None)
        if atom is None:
            found += text[0].encode()
            text = text[1:]
        else:
            found.append(BYTES + list(atoms).index(atom))
            text = text[len(atom) :]
    return tuple(found)


def _is_byte_level(backend: object) -> bool:
    return "ByteLevel" in repr(getattr(backend, "decoder", None))


def _byte_level() -> Mapping[str, int]:
    """Bytes by the letters that byte-level tokenizers write for them."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(BYTES) if byte not in printed]
    letters = {chr(byte): byte for byte in printed}
    letters |= {chr(BYTES + place): byte for place, byte in enumerate(others)}
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def _behind_another(backend: object, vocab: Mapping[int, str]) -> dict[int, str]:
    """Text of each token behind another one, with the space that the decoder may put between."""
    decode_batch = backend.decode_batch  # type: ignore[attr-defined]
    ids = list(vocab)
    alone = decode_batch([[index] for index in ids], skip_special_tokens=False)
    anchor = next((i for i, text in zip(ids, alone, strict=True) if text.isalnum()), ids[0])
    head = decode_batch([[anchor]], skip_special_tokens=False)[0]
    both = decode_batch([[anchor, index] for index in ids], skip_special_tokens=False)
    return {
        index: text.removeprefix(head) if text.startswith(head) else single
        for index, text, single in zip(ids, both, alone, strict=True)
    }
