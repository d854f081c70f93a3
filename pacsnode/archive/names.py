"""Person names as terms of a statement (PS3.4 C.2.2.2.1.1, C.2.2.2.4).

Names that begin with characters are ranges of an index. A pattern that begins with a wildcard, and the words
of a fuzzy key, are looked up in full-text tables where the schema has one for the column, else compared with
every row.
"""

from collections.abc import Iterable
from typing import Final

from pacsnode.archive.plan import Alternatives, Bound, Operator, Term
from pacsnode.archive.schema import FULL_TEXT, NAME_GROUPS
from pacsnode.dicom.fuzzy import key_words, sound
from pacsnode.dicom.information_model import Attribute
from pacsnode.dicom.matching import glob, name_groups, name_patterns
from pacsnode.dicom.query import Key, has_wildcard

_LAST_CHARACTER: Final = "\U0010ffff"  # sorts after any character that follows a prefix
_TRIGRAM: Final = 3  # characters; shorter pieces of a pattern cannot be looked up


def is_narrowed_only(attribute: Attribute, key: Key) -> bool:
    """Whether the terms of a name find more than its matches."""
    return attribute.multiple or key.fuzzy or not all(map(_is_exact, key.values))


def _is_exact(value: str) -> bool:
    """Whether the terms of a name decide it: one group that begins with characters, or `*characters*`."""
    groups = name_groups(value)
    asked = [group for group in groups if group.strip("*")]
    return len(asked) == 1 and all(
        not has_wildcard(pattern[:1])
        or (len(groups) == 1 and pattern[-1] == "*" and not has_wildcard(pattern.strip("*")))
        for pattern in name_patterns(asked[0])
    )


def name_terms(column: str, attribute: Attribute, key: Key) -> Alternatives:
    """The terms for all names a key matches; none when it asks for nothing."""
    found: Alternatives = []
    for value in key.values:
        terms = _one_of_several(column, value) if attribute.multiple else _written(column, value)
        if not terms:
            return []  # `^^` and `*=*` ask for nothing
        found += terms
        if key.fuzzy and (words := key_words(value)):
            found.append(_spoken(f"{column}_words", words))
    return found


def _written(column: str, value: str) -> Alternatives:
    """A name as it is written: one group may be met in any group, several are narrowed down by the first.

    A pattern that begins with a wildcard is looked for in the whole folded name: one comparison for a row,
    not three of generated columns.
    """
    groups = name_groups(value)
    position, group = next(((i, g) for i, g in enumerate(groups) if g.strip("*")), (0, ""))
    if not group:
        return []
    found: Alternatives = []
    suffixes = NAME_GROUPS if len(groups) == 1 else NAME_GROUPS[position : position + 1]
    for pattern in name_patterns(group):
        if has_wildcard(pattern[:1]):
            found.append(_anywhere(f"{column}_key", pattern))
        else:
            found += [pattern_term(f"{column}_{suffix}", pattern) for suffix in suffixes]
    return found


def _one_of_several(column: str, value: str) -> Alternatives:
    group = next((group for group in name_groups(value) if group), "")
    narrowest = min(name_patterns(group), key=len)  # what is left open at the end may be missing
    return [_anywhere(f"{column}_key", narrowest)]


def _anywhere(column: str, pattern: str) -> tuple[Term, tuple[Bound, ...]]:
    """A pattern anywhere in a column; the trigrams of its pieces find the few rows to compare.

    One that is a trigram between asterisks finds what it means, and nothing has to be compared.
    """
    wanted = glob(f"*{pattern}*")
    pieces = pattern.replace("?", "*").split("*")
    trigrams = {piece[i : i + _TRIGRAM] for piece in pieces for i in range(len(piece) - _TRIGRAM + 1)}
    if column not in FULL_TEXT or not trigrams:
        return Term(column, Operator.GLOB), (wanted,)
    if trigrams == {pattern.strip("*")} and "\0" not in pattern:
        return Term(column, Operator.SEARCH), (_all_of(map(_quoted, trigrams)),)
    return Term(column, Operator.SEARCH_GLOB), (_all_of(map(_quoted, sorted(trigrams))), wanted)


def pattern_term(column: str, pattern: str) -> tuple[Term, tuple[Bound, ...]]:
    """A pattern that begins with characters is a range of an index; the rest is compared only within it."""
    if not has_wildcard(pattern):
        return Term(column, Operator.EQUAL), (pattern,)
    prefix = pattern[: next(i for i, character in enumerate(pattern) if character in "*?")]
    if not prefix:
        return Term(column, Operator.GLOB), (glob(pattern),)
    ends = (prefix, prefix + _LAST_CHARACTER)
    if set(pattern[len(prefix) :]) == {"*"}:
        return Term(column, Operator.PREFIX), ends
    return Term(column, Operator.PREFIX_GLOB), (*ends, glob(pattern))


def _spoken(column: str, words: tuple[str, ...]) -> tuple[Term, tuple[Bound, ...]]:
    """The words of a fuzzy key, in `column` as fuzzy.name_words has them."""
    known = [expression for expression in map(_searched, words) if expression]
    if column in FULL_TEXT and known:
        return Term(column, Operator.SEARCH), (_all_of(known),)
    longest = max(words, key=len)
    word = longest if has_wildcard(longest) else sound(longest)
    return Term(column, Operator.GLOB), (glob(f"* {word} *"),)


def _searched(word: str) -> str:
    """A word in the language of FTS5: how it sounds, or what it begins with; "" when it begins with any."""
    if not has_wildcard(word):
        return _quoted(sound(word))
    prefix = word.replace("?", "*").partition("*")[0]
    return f"{_quoted(prefix)} *" if prefix else ""


def _all_of(expressions: Iterable[str]) -> str:
    return " AND ".join(expressions)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""').replace("\0", "") + '"'
