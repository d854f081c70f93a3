import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsnode.dicom.uid import UID, ae_title, is_uid, new_uid, uid_of
from pacsnode.errors import CannotUnderstand


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.1", "1.2.0", "1.02.3", "9" * 64])
def test_a_uid_is_digits_in_components(text: str) -> None:
    assert is_uid(text)
    assert uid_of(text.encode()) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "1.", ".1", "1..2", "../1", "1/2", "1.a", "1 2", " 1", "1\n", "-1", "9" * 65, "\u0661"],
)
def test_what_could_become_another_path_is_no_uid(text: str) -> None:
    assert not is_uid(text)
    with pytest.raises(CannotUnderstand):
        uid_of(text.encode())


@pytest.mark.parametrize("raw", [b"1.2.3", b"1.2.3\0", b"1.2.3 ", b"1.2.3\0\0 "])
def test_the_padding_of_an_encoded_uid_is_taken_off(raw: bytes) -> None:
    assert uid_of(raw) == UID("1.2.3")


def test_an_error_about_a_uid_does_not_repeat_a_megabyte() -> None:
    with pytest.raises(CannotUnderstand) as caught:
        uid_of(b"x" * 2**20)
    assert len(str(caught.value)) < 100


@given(st.binary(max_size=80))
def test_any_bytes_are_a_uid_or_refused(raw: bytes) -> None:
    try:
        uid = uid_of(raw)
    except CannotUnderstand:
        return
    assert is_uid(uid)


def test_new_uids_are_uids_and_differ() -> None:
    first, second = new_uid(), new_uid()
    assert is_uid(first)
    assert first.startswith("2.25.")
    assert first != second


@pytest.mark.parametrize(
    ("text", "title"), [("PACSNODE", "PACSNODE"), ("  a B ", "a B"), ("X" * 16, "X" * 16)]
)
def test_spaces_around_an_ae_title_mean_nothing(text: str, title: str) -> None:
    assert ae_title(text) == title


@pytest.mark.parametrize("text", ["", "    ", "X" * 17, "A\\B", "A\tB", "A\0", "ÄRZTE", "A\x7f"])
def test_an_ae_title_against_the_rules_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="AE title"):
        ae_title(text)
