"""A checkpoint's tokenizer: loaded so that its tokenizer.json decides, and its digest.

transformers may build a tokenizer anew from other files of the folder (``tokenizer_class``, added
tokens, vocab.json and merges.txt), with other ids than tokenizer.json gives. Serving engines and
the stored ids follow tokenizer.json, so it is what counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.errors import CheckpointError, ModelNotFoundError, ObservationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

OFF: tuple[Any, ...] = (None, "", [], {})

log = logging.getLogger(__name__)

NAME = "tokenizer.json"

PARTS = ("normalizer", "pre_tokenizer", "model", "decoder", "added_tokens")
"""What makes ids of text and text of ids. The rest cuts, pads or adds tokens when asked to."""


def load_tokenizer(
    place: str, revision: str | None = None, config: PreTrainedConfig | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub id; its tokenizer.json decides where there is one.

    Raises:
        ModelNotFoundError: There is none.
        CheckpointError: It cannot be read.
    """
    from transformers import AutoTokenizer

    file = _file(place, revision)
    own = None if file is None else _read(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, config=config, revision=revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        raise ModelNotFoundError(
            f"{place} has no tokenizer that can be loaded ({_first_line(error)}): put the model's "
            f"{NAME} and tokenizer_config.json beside its config.json."
        ) from error
    if own is not None and getattr(tokenizer, "is_fast", False):
        _use(tokenizer, own, place)
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest what makes text of token ids: with the same digest, ids mean the same text.

    It does not depend on how a file is written, on padding and truncation, or on settings that
    newer libraries add and leave off.

    Raises:
        ObservationError: The tokenizer is not backed by the ``tokenizers`` library.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ObservationError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so its text spans are unknown. "
            f"Load the model with a {NAME}."
        )
    text = json.dumps(_parts(tokenizer.backend_tokenizer), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _use(tokenizer: PreTrainedTokenizerBase, own: Tokenizer, place: str) -> None:
    """Replace the rules that were built by tokenizer.json's own."""
    tokenizer.split_special_tokens = False  # tokenizer.json knows no such setting
    if _parts(tokenizer.backend_tokenizer) == _parts(own):
        return
    log.warning(
        "%s: transformers builds a tokenizer that differs from %s; %s is used", place, NAME, NAME
    )
    own.no_truncation()
    own.no_padding()
    tokenizer._tokenizer = own


def _parts(backend: Tokenizer) -> dict[str, Any]:
    """Take the parts of a tokenizer that make ids of text and text of ids, in one form."""
    whole = json.loads(backend.to_str())
    parts = {name: whole.get(name) for name in PARTS}
    parts["added_tokens"] = sorted(whole.get("added_tokens") or [], key=lambda token: token["id"])
    model = dict(whole["model"])
    # Large, and what is in them is no setting: left as it is, but for the two forms of merges.
    kept = {"vocab": model.pop("vocab", None), "merges": model.pop("merges", None) or []}
    kept["merges"] = [
        merge.split(" ", 1) if isinstance(merge, str) else merge for merge in kept["merges"]
    ]
    parts["model"] = model
    return {**_plain(parts), "model": {**_plain(model), **kept}}


def _plain(value: Any) -> Any:
    """Leave out of a setting what is off or empty, which older libraries do not write."""
    if isinstance(value, dict):
        kept = {key: _plain(each) for key, each in value.items() if each not in OFF}
        return {key: each for key, each in kept.items() if each is not False}  # but 0 is a value
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _file(place: str, revision: str | None) -> Path | None:
    """The tokenizer.json of a folder or hub id; None where there is none."""
    if Path(place).is_dir():
        file = Path(place) / NAME
        return file if file.exists() else None
    from transformers.utils import cached_file

    found = cached_file(
        place,
        NAME,
        revision=revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _read(file: Path) -> Tokenizer:
    """Read a tokenizer.json.

    Raises:
        CheckpointError: It cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {_first_line(error)}.") from error
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises nothing finer
            raise
        raise CheckpointError(
            f"{file} is no tokenizer ({_first_line(error)}): download it again."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200]
