"""From requested keys to a checked query (PS3.4 C.2.2.2, C.4.1)."""

import pytest

from pacsnode.dicom.information_model import InformationModel, Level
from pacsnode.dicom.query import (
    MAX_PATTERN,
    Key,
    Matching,
    Query,
    QueryOptions,
    RequestedKey,
    key_of,
    level_of,
    query_of,
)
from pacsnode.errors import InvalidIdentifier

PATIENT_ID = RequestedKey(0x00100020, "LO", "P1")
STUDY_UID = RequestedKey(0x0020000D, "UI", "1.2.3")
SERIES_UID = RequestedKey(0x0020000E, "UI", "1.2.3.4")


def ask(
    level: Level,
    *keys: RequestedKey,
    model: InformationModel = InformationModel.PATIENT_ROOT,
    options: QueryOptions | None = None,
) -> Query:
    return query_of(level, model, keys, options or QueryOptions())


@pytest.mark.parametrize(
    ("vr", "text", "matching"),
    [
        ("LO", "", Matching.UNIVERSAL),
        ("LO", "*", Matching.UNIVERSAL),
        ("LO", "**", Matching.UNIVERSAL),
        ("UI", "*", Matching.UNIVERSAL),
        ("LO", "  ", Matching.UNIVERSAL),
        ("LO", "A", Matching.SINGLE),
        ("LO", "A*", Matching.WILDCARD),
        ("CS", "C?", Matching.WILDCARD),
        ("PN", "DOE^*", Matching.WILDCARD),
        ("IS", "1*", Matching.SINGLE),
        ("AS", "0?0Y", Matching.SINGLE),
        ("UI", "1.2", Matching.SINGLE),
        ("UI", "1.2\\1.3", Matching.UID_LIST),
        ("UI", "1.*", Matching.SINGLE),
        ("DA", "20240101", Matching.RANGE),
        ("DA", "20240101-", Matching.RANGE),
        ("TM", "10-12", Matching.RANGE),
        ("DT", "2024", Matching.RANGE),
    ],
)
def test_kind_of_matching_follows_vr_and_value(vr: str, text: str, matching: Matching) -> None:
    assert key_of(RequestedKey(0x00081234, vr, text)).matching is matching


def test_values_are_alternatives_except_where_a_backslash_is_text() -> None:
    assert key_of(RequestedKey(0x00080060, "CS", "CT\\MR ")).values == ("CT", "MR")
    assert key_of(RequestedKey(0x00104000, "LT", "a\\b")).values == ("a\\b",)


@pytest.mark.parametrize(("vr", "text"), [("DA", "2024*"), ("TM", "25h"), ("DT", "soon"), ("DA", "-")])
def test_malformed_date_or_time_is_the_offending_element(vr: str, text: str) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        key_of(RequestedKey(0x00080020, vr, text))
    assert caught.value.offending == (0x00080020,)


def test_pattern_that_only_costs_time_is_refused() -> None:
    with pytest.raises(InvalidIdentifier):
        key_of(RequestedKey(0x00100020, "LO", "*a" * MAX_PATTERN))


def test_sequence_with_keys_is_matched_and_with_none_is_returned_whole() -> None:
    code = RequestedKey(0x00080100, "SH", "T-1")
    matched = key_of(RequestedKey(0x00081032, "SQ", items=((code,),)))
    assert matched.matching is Matching.SEQUENCE
    assert matched.items == (Key(0x00080100, "SH", Matching.SINGLE, ("T-1",)),)
    for items in ((), ((),)):
        whole = key_of(RequestedKey(0x00081032, "SQ", items=items))
        assert (whole.matching, whole.items) == (Matching.UNIVERSAL, ())


def test_sequence_with_two_items_is_refused() -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        key_of(RequestedKey(0x00081032, "SQ", items=((), ())))
    assert caught.value.offending == (0x00081032,)


def test_endless_nesting_is_refused() -> None:
    key = RequestedKey(0x00081032, "SQ")
    for _ in range(50):
        key = RequestedKey(0x00081032, "SQ", items=((key,),))
    with pytest.raises(InvalidIdentifier):
        key_of(key)


@pytest.mark.parametrize("text", ["", "FRAME", "study"])
def test_unknown_level_names_its_element(text: str) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        level_of(text)
    assert caught.value.offending == (0x00080052,)


@pytest.mark.parametrize(
    ("model", "level"),
    [
        (InformationModel.STUDY_ROOT, Level.PATIENT),
        (InformationModel.PATIENT_STUDY_ONLY, Level.SERIES),
        (InformationModel.PATIENT_STUDY_ONLY, Level.IMAGE),
    ],
)
def test_level_outside_the_model_is_refused(model: InformationModel, level: Level) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        ask(level, PATIENT_ID, STUDY_UID, SERIES_UID, model=model)
    assert caught.value.offending == (0x00080052,)


@pytest.mark.parametrize(
    ("keys", "offending"),
    [
        ((STUDY_UID,), 0x00100020),
        ((PATIENT_ID,), 0x0020000D),
        ((PATIENT_ID, RequestedKey(0x0020000D, "UI", "")), 0x0020000D),
        ((PATIENT_ID, RequestedKey(0x0020000D, "UI", "1.2\\1.3")), 0x0020000D),
        ((RequestedKey(0x00100020, "LO", "P*"), STUDY_UID), 0x00100020),
    ],
)
def test_unique_keys_above_need_a_single_value(keys: tuple[RequestedKey, ...], offending: int) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        ask(Level.SERIES, *keys)
    assert caught.value.offending == (offending,)


@pytest.mark.parametrize("options", [QueryOptions(relational=True), QueryOptions(lenient_hierarchy=True)])
def test_unique_keys_above_may_be_missing_when_allowed(options: QueryOptions) -> None:
    query = ask(Level.SERIES, RequestedKey(0x00080060, "CS", "CT"), options=options)
    # They are answered all the same (C.4.1.3.1.1).
    assert [key.tag for key in query.keys] == [0x00080060, 0x00100020, 0x0020000D]


def test_keys_are_in_the_order_of_their_tags() -> None:
    query = ask(Level.SERIES, SERIES_UID, STUDY_UID, PATIENT_ID)
    assert [key.tag for key in query.keys] == sorted(key.tag for key in query.keys)


def test_elements_of_the_identifier_and_group_lengths_are_no_keys() -> None:
    noise = [
        RequestedKey(tag, "UL", "7")
        for tag in (
            0x00080000,
            0x00080001,
            0x00080005,
            0x00080052,
            0x00080054,
            0x00080056,
            0x00080201,
            0x00100000,
        )
    ]
    query = ask(Level.STUDY, PATIENT_ID, *noise)
    assert [key.tag for key in query.keys] == [0x00100020]
    assert query.unsupported == ()


def test_what_is_no_attribute_of_the_level_is_unsupported() -> None:
    query = ask(
        Level.STUDY,
        PATIENT_ID,
        RequestedKey(0x0008103E, "LO", "series level"),
        RequestedKey(0x00091001, "LO", "private"),
        RequestedKey(0x00180050, "DS"),
        RequestedKey(0x7FE00010, "OW"),
    )
    assert query.unsupported == (0x0008103E, 0x00091001, 0x00180050, 0x7FE00010)
    assert [key.tag for key in query.keys] == [0x00100020]


def test_attribute_outside_the_columns_is_a_key() -> None:
    query = ask(Level.STUDY, PATIENT_ID, RequestedKey(0x00321032, "PN", "DOE*"))
    assert query.unsupported == ()
    assert query.keys[-1].attribute is None
