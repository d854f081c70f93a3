"""Fuzzy semantic matching of person names (PS3.4 C.2.2.2.1.1). Pure.

A name is taken as the words of its family, given and middle names; prefixes and suffixes do not count, nor
which component a word stands in: `Smith^Mary`, `Mary^Smith` and `Smith, Mary` are one. Each word of a key has
to be met, so a key of the family name alone finds the whole family.

Two words are the same when they are folded alike (case, accents, and umlauts however they are written: ü, u
or ue) or sound alike by Metaphone. Words with wildcards are compared as they are folded.
"""

import fnmatch
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from jellyfish import metaphone

from pacsnode.dicom.query import has_wildcard

NAME_COMPONENTS: Final = 3  # family, given and middle name; the prefix and the suffix follow

# Marks on Latin, Greek and Cyrillic letters. Those of other scripts make another letter: か is not が.
_MARKS: Final = re.compile("[\u0300-\u036f]")
_LETTERS: Final = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ł": "l", "\u0131": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
# ä, ö, ü and å written out; never at the end of a word, so that Doe and Do stay two. What a wildcard stands
# for may go on.
_DIGRAPH: Final = re.compile(r"(?:([aou])e|(a)a)(?=[^\W\d_]|[*?])")
_APOSTROPHE: Final = re.compile("['`\u00b4\u2019\u02bc]")
# Anything of ASCII that is no letter, digit or wildcard; spaces of any width; middle dots between names.
_BETWEEN_WORDS: Final = re.compile(r"[\x00-)+-/:->@\[-`{-\x7f\s·・]+")

# What Metaphone, made for English, tells apart although it sounds the same in names from elsewhere.
_SPELLINGS: Final = ((re.compile("(?<=.)y"), "i"), (re.compile("dt"), "t"), (re.compile("tz"), "z"))
_MIN_SOUND: Final = 2  # consonants; `L` would make Lee, Lou, Ali and Elly one


def fold(text: str) -> str:
    """`text` without case and accents, umlauts as their base letter.

    What `text*` is folded to is met by the fold of all that begins with `text`.
    """
    plain = text.lower()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKD", text.casefold())
        plain = unicodedata.normalize("NFC", _MARKS.sub("", plain).translate(_LETTERS))
    return _DIGRAPH.sub(r"\1\2", plain)


def sound(word: str) -> str:
    """How a folded word sounds, in capitals; the word itself when that would say too little."""
    if not (word.isascii() and word.isalpha()):
        return word
    for spelling, plain in _SPELLINGS:
        word = spelling.sub(plain, word)
    code = metaphone(word)
    return code if len(code) >= _MIN_SOUND else word


def words(group: str) -> tuple[str, ...]:
    """The folded words of one component group, in order; of a key with their wildcards."""
    named = "^".join(group.split("^")[:NAME_COMPONENTS])
    folded = fold(_APOSTROPHE.sub("", named))
    return tuple(word for word in _BETWEEN_WORDS.split(folded) if word)


def name_words(name: str) -> str:
    """What the index keeps of a name to find it by: its words, then how they sound, spaces around each.

    Kept in the index, so a change needs a migration.
    """
    found: dict[str, None] = {}
    for value in name.split("\\"):
        for group in value.split("="):
            of_group = words(group.replace("*", " ").replace("?", " "))
            found |= dict.fromkeys([*of_group, *map(sound, of_group)])
    return f" {' '.join(found)} " if found else ""


def key_words(value: str) -> tuple[str, ...]:
    """The words that every match of a key has: those of its first group that asks for any."""
    return next((found for found in map(_asked, value.split("=")) if found), ())


def name_test(value: str) -> Callable[[str], bool]:
    """A function from a stored name to whether it matches the key `value`; never for a key without words.

    A key of one component group may be met in any group, others are compared group by group.
    """
    groups = [_asked(group) for group in value.split("=")]
    tests = [[_word_test(word) for word in group] for group in groups]

    def matches(stored: str) -> bool:
        found = _stored_words(stored)
        if len(tests) == 1:
            return any(_are_met(tests[0], group) for group in found)
        padded = (*found, *[()] * (len(tests) - len(found)))
        return all(_are_met(test, group) for test, group in zip(tests, padded, strict=False))

    return matches if any(groups) else lambda _stored: False


_Words = tuple[tuple[str, str], ...]
"""Folded words and how they sound."""
_WordTest = Callable[[str, str], bool]


def _asked(group: str) -> tuple[str, ...]:
    return tuple(word for word in words(group) if word.strip("*"))


@lru_cache(maxsize=4096)
def _stored_words(name: str) -> tuple[_Words, ...]:
    """The words of each component group of a stored name."""
    return tuple(tuple((word, sound(word)) for word in words(group)) for group in name.split("="))


def _are_met(tests: list[_WordTest], group: _Words) -> bool:
    return all(any(test(word, code) for word, code in group) for test in tests)


def _word_test(word: str) -> _WordTest:
    if not has_wildcard(word):
        wanted = sound(word)
        return lambda stored, code: wanted in (code, stored)
    pattern = re.compile(fnmatch.translate(re.sub(r"\*+", "*", word)))  # of letters, digits and wildcards
    return lambda stored, _code: pattern.match(stored) is not None
