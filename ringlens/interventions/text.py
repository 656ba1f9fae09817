r"""The text form of interventions: what the command line takes and ``runs.interventions`` keeps.

ablate:5/3+7                    experts 3 and 7 of layer 5
ablate:2-4/3@think              expert 3 of layers 2 to 4, in thoughts
boost:5/3=0.2@answer[40:]       in answers, from position 40 on
scale:*/3=0.5@"wait"~8          in every layer with experts, at 8 tokens from a "wait" on
swap:5/3+7   force:5/3   route-around:5/3
ablate-head:2/0+1   scale-head:2/0=0.5
steer:4/resid_post=2.0*direction.npy
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ringlens.config import DIGITS, known_only
from ringlens.errors import ConfigError
from ringlens.interventions.intervention import KINDS, Intervention
from ringlens.interventions.steer import Steer
from ringlens.strict_json import parsed

_WHOLE = re.compile(
    r"(?P<kind>[\w-]+):(?P<layers>[^/=@]*)/(?P<target>[^=@]*)(=(?P<strength>[^@]*))?"
    r"(@(?P<place>.*))?",
    re.DOTALL,
)
_WORD = r'"(?:[^"\\]|\\.)*"'
_PLACE = re.compile(
    r"(?P<phases>[a-z+]+)?(\[(?P<start>\d{0,9}):(?P<stop>\d{0,9})\])?"
    rf"(?P<words>{_WORD}(\+{_WORD})*)?(~(?P<reach>\d{{1,9}}))?",
    re.DOTALL,
)
_NUMBER = re.compile(r"(-?\d+)|(\d+)-(\d+)")


def read_intervention(text: str) -> Intervention:
    """Read the text form of one intervention.

    Raises:
        ConfigError: It is none.
    """
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"{text!r:.60} is no intervention; write KIND:LAYERS/WHAT, as in 'ablate:5/3+7@think'."
        )
    known_only([found["kind"]], KINDS, "intervention")
    kind = KINDS[found["kind"]]
    if (found["strength"] is None) == bool(kind.strength):
        wanted = f"needs ={kind.strength}" if kind.strength else "takes no ="
        raise ConfigError(f"{text!r:.60}: {found['kind']} {wanted}, as in {_example(kind)!r}.")
    layers = None if found["layers"] == "*" else _numbers(found["layers"], text)
    given = {**_what(kind, found, text), **_place(found["place"], text)}
    return kind(layers, **given)


def read_interventions(
    given: Intervention | str | Iterable[Intervention | str],
) -> tuple[Intervention, ...]:
    """Interventions as they are, and their text forms as objects.

    Raises:
        ConfigError: Something else.
    """
    listed = [given] if isinstance(given, Intervention | str) else given
    if not isinstance(listed, Iterable):
        listed = [listed]
    found = []
    for each in listed:
        if not isinstance(each, Intervention | str):
            raise ConfigError(
                f"{each!r:.60} is no intervention; give objects such as "
                "Ablate(layer=5, experts=(3, 7)), or their text form."
            )
        found.append(read_intervention(each) if isinstance(each, str) else each)
    return tuple(found)


def _example(kind: type[Intervention]) -> str:
    strengths = {"by": "=0.2", "factor": "=0.5", "": ""}
    if kind is Steer:
        return "steer:4/resid_post=2.0*direction.npy"
    return f"{kind.kind}:5/{'3+7' if kind.kind == 'swap' else 3}{strengths[kind.strength]}"


def _what(kind: type[Intervention], found: re.Match[str], text: str) -> dict[str, Any]:
    """What is changed, and by how much."""
    if kind is Steer:
        by, _, direction = found["strength"].partition("*")
        numbers = _direction(direction, text)
        return {"point": found["target"], "by": _float(by, text), "direction": numbers}
    numbers = _numbers(found["target"], text)
    one = kind.target == "expert"
    if one and len(numbers) != 1:
        raise ConfigError(f"{text!r:.60}: {kind.kind} takes one expert, as in {_example(kind)!r}.")
    what: dict[str, Any] = {kind.target: numbers[0] if one else numbers}
    return what | ({kind.strength: _float(found["strength"], text)} if kind.strength else {})


def _float(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{whole!r:.60}: {text!r:.30} is no number.") from error


def _numbers(text: str, whole: str) -> tuple[int, ...]:
    """Read "3+5-7" as (3, 5, 6, 7); negative numbers stand alone."""
    numbers: list[int] = []
    for part in text.split("+"):
        found = _NUMBER.fullmatch(part)
        if found is None:
            raise ConfigError(
                f"{whole!r:.60}: {text!r:.30} is no list of numbers; write 3+5 or 0-7."
            )
        if max(len(digits or "") for digits in found.groups()) > DIGITS:
            raise ConfigError(f"{whole!r:.60}: numbers have at most {DIGITS} digits here.")
        first, last = (found[1], found[1]) if found[1] else (found[2], found[3])
        if int(last) < int(first):
            raise ConfigError(f"{whole!r:.60}: {part!r} ends before it begins.")
        numbers += range(int(first), int(last) + 1)
    return tuple(numbers)


def _place(text: str | None, whole: str) -> dict[str, Any]:
    """Where it acts, as fields of an intervention."""
    if text is None:
        return {}
    found = _PLACE.fullmatch(text)
    if found is None or not text:
        raise ConfigError(
            f"{whole!r:.60}: {text!r:.40} says no place; write phases, positions and words in this "
            "order, as in 'think', 'think+answer[10:200]' or 'think\"wait\"~8'."
        )
    given: dict[str, Any] = {}
    if found["phases"]:
        given["phase"] = found["phases"].split("+")
    if found["start"] is not None:
        given["span"] = (int(found["start"] or 0), int(found["stop"]) if found["stop"] else None)
    if found["words"]:
        quoted = re.findall(_WORD, found["words"], re.DOTALL)
        given["words"] = tuple(_word(each, whole) for each in quoted)
    if found["reach"]:
        given["reach"] = int(found["reach"])
    return given


def _word(quoted: str, whole: str) -> str:
    word = parsed(quoted, f"a word of {whole!r:.60}", ConfigError)
    return str(word)


def _direction(text: str, whole: str) -> Any:
    """The numbers of a direction: of a .npy file, or written out as the text form has them."""
    if text.endswith(".npy"):
        try:
            return np.load(Path(text), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"cannot read the direction {text!r:.80}: {error}") from error
    try:
        return np.frombuffer(b64decode(text, validate=True), "<f4")
    except (ValueError, binascii.Error) as error:
        raise ConfigError(
            f"{whole!r:.60}: the direction must be a .npy file, as in {_example(Steer)!r}."
        ) from error
