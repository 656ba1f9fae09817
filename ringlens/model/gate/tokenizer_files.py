"""The tokenizer of a checkpoint, and its chat template, tried out before they are relied on."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.errors import CheckpointError, ModelNotFoundError, RinglensError
from ringlens.model.family import sizes_of
from ringlens.model.gate.json_files import MB, is_there, read_bytes, read_object
from ringlens.model.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# Any of these files is a vocabulary. Ring's have tokenizer.json, of 12 MB.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
VOCABULARY_LIMIT, SETTINGS_LIMIT, TEMPLATE_LIMIT = 256 * MB, 16 * MB, MB
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# What a chat template may take to render a few words. It takes a millisecond.
TEMPLATE_MEMORY, TEMPLATE_SECONDS, PATIENCE_S = 2**30, 5, 120
CHATS = (
    [{"role": "user", "content": "Hello."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 1? <think>"},
        {"role": "assistant", "content": "<think>One and one.</think>2"},
        {"role": "user", "content": "And 2 + 2?\n" * 100},
    ],
)


def open_tokenizer(folder: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Open the tokenizer in a folder, without running code of the checkpoint.

    Raises:
        ModelNotFoundError: There is none.
        CheckpointError: It is malformed or has ids that the model lacks, or its chat
            template raises, does not end, or needs very much memory.
    """
    _check_files(folder)
    try:
        tokenizer = load_tokenizer(str(folder), config=config)
        highest = max(tokenizer.get_vocab().values(), default=-1)
    except RinglensError:
        raise
    except Exception as error:  # the tokenizers library raises Exception itself
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{folder} holds no tokenizer that can be loaded: {said[:300]} "
            "Fetch its tokenizer.json and tokenizer_config.json again."
        ) from error
    vocabulary = sizes_of(config).vocabulary
    if not 0 <= highest < vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has ids up to {highest:,}, but the model's vocab_size is "
            f"{vocabulary:,}. Use the tokenizer that belongs to this model."
        )
    check_template(tokenizer, folder)
    return tokenizer


def _check_files(folder: Path) -> None:
    found = [name for name in VOCABULARIES if is_there(folder / name)]
    if not found:
        raise ModelNotFoundError(
            f"{folder} holds no tokenizer: none of {', '.join(VOCABULARIES)}. "
            "Fetch tokenizer.json and tokenizer_config.json from where the weights come from."
        )
    for name in found:
        size = (folder / name).stat().st_size
        if size > VOCABULARY_LIMIT:
            raise CheckpointError(
                f"{folder / name} has {size / MB:,.0f} MB; no tokenizer needs more than "
                f"{VOCABULARY_LIMIT / MB:,.0f} MB. Fetch it again."
            )
    for name in SETTINGS:
        if is_there(folder / name):
            read_object(folder / name, SETTINGS_LIMIT)
    templates = (folder / "additional_chat_templates").glob("*.jinja")
    for path in (folder / "chat_template.jinja", *sorted(templates)):
        if is_there(path):
            read_bytes(path, TEMPLATE_LIMIT)


def check_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a chat template that cannot render a user's turn with little time and memory.

    Raises:
        CheckpointError: The message says what it did.
    """
    template = tokenizer.chat_template
    if not template:
        return
    templates = template if isinstance(template, dict) else {"default": template}
    if not all(isinstance(text, str) for text in templates.values()):
        raise CheckpointError(f"the chat template in {folder} is no text. Fetch it again.")
    tokens = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    for name, text in templates.items():
        # Only the default one is asked to render a plain turn; others may be for tools.
        wrong = try_template(text, json.dumps(tokens, sort_keys=True), name == "default")
        if wrong:
            raise CheckpointError(
                f"the chat template in {folder} {wrong}. Use the template published with this "
                "model, or remove it to give prompts as they are."
            )


@lru_cache(maxsize=64)
def try_template(template: str, tokens: str, must_render: bool = True) -> str | None:
    """Render a chat template in a process of its own, and say what is wrong with it.

    Args:
        template: Its text.
        tokens: Special tokens by name, as JSON.
        must_render: Whether raising on a single user's turn is wrong.

    Returns:
        None where nothing is.
    """
    if len(template) > TEMPLATE_LIMIT:
        return f"has {len(template):,} characters, more than {TEMPLATE_LIMIT:,}"
    asked: dict[str, Any] = {
        "template": template,
        "chats": CHATS,
        "tokens": json.loads(tokens),
        "memory": TEMPLATE_MEMORY,
        "seconds": TEMPLATE_SECONDS,
    }
    script = Path(__file__).with_name("template_probe.py")
    try:
        ran = subprocess.run(
            [sys.executable, "-I", str(script)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return f"did not finish a few turns in {PATIENCE_S} seconds"
    if ran.returncode < 0:
        return f"did not finish a few turns in {TEMPLATE_SECONDS} seconds of computing"
    if ran.returncode:
        last = (ran.stderr.strip() or "no word").splitlines()[-1]
        return f"did not render a few turns within {TEMPLATE_MEMORY // 2**20} MiB ({last[:200]})"
    error = json.loads(ran.stdout)["error"]
    return f"cannot render a user's turn ({error})" if error and must_render else None
