r"""Multiple choice: the letter that an answer names, where it names one and no other.

The letter stands in the last ``\boxed{…}``, behind words such as "the answer is", or alone. What
may be read in two ways is not graded: a grade that is a guess is worse than none.
"""

from __future__ import annotations

import re

from ringlens.graders.ungraded import UngradedError

TASK = "multiple-choice"

LONGEST = 100_000
"""Characters of an answer that are read; of a longer one none."""

LETTERS = "ABCDEFGHIJ"
"""Letters of choices where the prompt lists none."""

_LISTED = re.compile(r"^[ \t]*[*_]{0,2}\(?([A-Z])[).:]", re.MULTILINE)
_DRESS = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|bf|rm)\b|[{}$*_`]|\\[()\[\] ,;!]")
_STATED = re.compile(
    r"\b(?:answer|correct (?:option|choice|one))(?:\s+(?:is|would be|must be|should be)\b)?"
    r"[\s:=]{0,8}(?:(?:option|choice|letter)\s{1,4})?(\(?)([A-Za-z])\b(\)?)",
    re.IGNORECASE,
)
_AFTER_A = re.compile(r"\s*(?:$|[).,:;!]|(?:because|since|as|for|which|and|or)\b)")
_TAKEN_BACK = re.compile(
    r"\b(?:actually|wait|no|not|sorry|correction|instead|rather|hmm|scratch)\b", re.IGNORECASE
)


def letters(prompt: str) -> str:
    """The letters of the choices that a prompt lists; A to J where it lists none."""
    listed = set(_LISTED.findall(prompt))
    run = ""
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        if letter not in listed:
            break
        run += letter
    return run if len(run) > 1 else LETTERS


def expected(answer: str, allowed: str) -> str | None:
    """The letter of an expected answer, such as "B" or "(B)"; None if it is none."""
    letter = answer.strip().strip("().").upper()
    return letter if len(letter) == 1 and letter in allowed else None


def choice(answer: str, boxed: str | None, allowed: str) -> str:
    """The letter that an answer names.

    Args:
        answer: The whole answer, without the thought.
        boxed: What its last box holds; None if it has none.
        allowed: Letters of the choices.

    Raises:
        UngradedError: It names several, or none in a form that is certain, or is too long.
    """
    if len(answer) > LONGEST:
        raise UngradedError("size")
    if boxed is not None:
        return _alone(_bare(boxed), allowed)
    plain = _bare(answer)
    stated = list(_statements(plain, allowed))
    if stated:
        return _one({letter for letter, _ in stated}, plain[stated[-1][1] :], allowed)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    if sum(bool(_LISTED.match(line)) for line in lines) > 1:
        raise UngradedError("ambiguous")
    return _alone(lines[-1] if lines else "", allowed)


def _bare(text: str) -> str:
    r"""A text without the dress of Markdown and LaTeX, such as ``\text{}`` and stars."""
    return _DRESS.sub("", text).strip()


def _statements(text: str, allowed: str) -> list[tuple[str, int]]:
    """Letters that are stated to be the answer, with where the text goes on."""
    found = []
    for match in _STATED.finditer(text):
        opened, letter, closed = match.groups()
        dressed = bool(opened and closed)
        if letter.upper() not in allowed or not (dressed or letter.isupper()):
            continue
        rest = text[match.end() :].split("\n", 1)[0]
        if letter in "AI" and not dressed and not _AFTER_A.match(rest):
            continue  # "the answer is A dog", "I think": words, and no letters of choices
        if _named(rest, allowed) - {letter.upper()}:
            raise UngradedError("ambiguous")
        found.append((letter.upper(), match.end()))
    return found


def _one(found: set[str], behind: str, allowed: str) -> str:
    """The only letter, which nothing behind it takes back."""
    (letter, *others) = sorted(found)
    if others or (_TAKEN_BACK.search(behind) and _named(behind, allowed) - {letter}):
        raise UngradedError("ambiguous")
    return letter


def _alone(text: str, allowed: str) -> str:
    """The letter of a text that is one, in brackets or before the words of its choice perhaps."""
    match = re.match(r"\(?([A-Za-z])(?:\)[.:]?|[.:])?(?:\s+(?=\S)|$)", text)
    if match is None:
        raise UngradedError("ambiguous" if len(_named(text, allowed)) > 1 else "unclear")
    letter, rest = match[1].upper(), text[match.end() :]
    if _named(rest, allowed) - {letter}:
        raise UngradedError("ambiguous")
    marked = not match[0].strip()[-1].isalnum()
    if letter not in allowed or (rest and not marked):
        raise UngradedError("unclear")
    return letter


def _named(text: str, allowed: str) -> set[str]:
    """Letters of choices that stand by themselves in a text; "A" and "I" in brackets only."""
    plain = re.findall(r"(?<![\w'’])([A-Z])(?![\w'’])", text)
    dressed = re.findall(r"\(([A-Za-z])\)", text)
    words = {letter for letter in plain if letter not in "AI"} | {each.upper() for each in dressed}
    alone = set(re.findall(r"\b([A-Z])\b(?=\s*(?:$|[,/&.)]|or\b|and\b))", text))
    return (words | alone) & set(allowed)
