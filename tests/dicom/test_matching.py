"""Values against keys, decided in Python (PS3.4 C.2.2.2)."""

import pytest

from pacsnode.dicom.matching import predicate
from pacsnode.dicom.query import RequestedKey, key_of


def matches(vr: str, asked: str, *stored: str, match_unknown: bool = True) -> bool:
    return predicate(key_of(RequestedKey(0x00100010, vr, asked)), match_unknown)(stored)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("DOE^JOHN", "Doe^John^^"),
        ("doe^john", "DOE^JOHN"),
        ("DOE^JOHN^^", "DOE^JOHN"),
        ("DOE^*", "DOE"),
        ("DOE^*", "DOE^JANE"),
        ("DOE^J*^*", "DOE^JOHN"),
        ("D?E*", "DOE^JOHN"),
        ("*okafor*", "OKAFOR^NGOZI"),
        ("山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("YAMADA*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("*たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("yamada*=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("*=*=やまだ^*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("MÜLLER*", "Mu\u0308ller^Anna"),
        ("[a]*", "[A]bc"),
    ],
)
def test_person_name_matches(asked: str, stored: str) -> None:
    assert matches("PN", asked, stored)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("DOE", "DOE^JOHN"),
        ("DOE^*", "DOERING^JOHN"),
        ("D?E", "DOOE"),
        ("=YAMADA*", "Yamada^Tarou=山田^太郎"),
        ("yamada*=佐藤*", "Yamada^Tarou=山田^太郎"),
        ("a*b", "ax=yb"),
        ("[a]*", "abc"),
    ],
)
def test_person_name_does_not_match(asked: str, stored: str) -> None:
    assert not matches("PN", asked, stored)


def test_other_text_is_compared_with_its_case() -> None:
    assert matches("LO", "Head*", "Head CT")
    assert not matches("LO", "HEAD*", "Head CT")
    assert not matches("LO", "head ct", "Head CT")


def test_any_of_several_values_is_enough() -> None:
    assert matches("CS", "SECONDARY", "DERIVED", "SECONDARY")
    assert matches("CS", "CT\\MR", "MR")
    assert not matches("CS", "CT\\MR", "US", "SR")


def test_line_breaks_are_characters_to_a_wildcard() -> None:
    assert matches("LT", "first*third", "first\r\nsecond\r\nthird")


def test_numbers_are_compared_by_value() -> None:
    assert matches("IS", "1", "001")
    assert matches("DS", "1.50", "1.5")
    assert matches("US", "512", "512")
    assert not matches("IS", "1", "11")
    assert matches("IS", "n/a", "n/a")


def test_unknown_value_matches_if_wanted() -> None:
    assert matches("LO", "A")
    assert matches("LO", "A", "")
    assert not matches("LO", "A", match_unknown=False)
    assert not matches("LO", "A", "", match_unknown=False)
    assert matches("LO", "", match_unknown=False)


def test_malicious_pattern_is_decided_at_once() -> None:
    assert not matches("LO", "a*" * 500 + "b", "a" * 5000)
