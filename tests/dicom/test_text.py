import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement

from pacsnode.dicom.text import Decoder, charset_for, decoder, encode, person_name_key, search_key

CHARSET_FILES = sorted((Path(pydicom.data.__file__).parent / "charset_files").glob("*.dcm"))
CODED_VRS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
TERMS = sorted(python_encoding)
JAPANESE = r"\ISO 2022 IR 87"
KOREAN = r"\ISO 2022 IR 149"
CHINESE = r"\ISO 2022 IR 58"
EVERYTHING = (
    r"ISO 2022 IR 100\ISO 2022 IR 101\ISO 2022 IR 126\ISO 2022 IR 144\ISO 2022 IR 13\ISO 2022 IR 87"
    r"\ISO 2022 IR 159\ISO 2022 IR 149\ISO 2022 IR 58\ISO 2022 IR 166"
)


def of(charset: str) -> Decoder:
    return decoder(charset.encode("ascii"))


def charset_of(dataset: Dataset) -> bytes | None:
    value = dataset.get("SpecificCharacterSet")
    if value is None:
        return None
    return (value if isinstance(value, str) else "\\".join(value)).encode("ascii")


def coded_elements(dataset: Dataset) -> Iterator[tuple[bytes, str, int]]:
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.value:
            vr = element.VR or dictionary_VR(tag)
            if vr in CODED_VRS:
                yield element.value, vr, int(tag)


@pytest.mark.parametrize("path", CHARSET_FILES, ids=lambda path: path.name)
def test_text_is_what_pydicom_decodes(path: Path) -> None:
    ours, theirs = pydicom.dcmread(path), pydicom.dcmread(path)
    datasets = [(ours, theirs, charset_of(ours))]
    for item, other in zip(
        ours.get("RequestedProcedureCodeSequence", []),
        theirs.get("RequestedProcedureCodeSequence", []),
        strict=True,
    ):
        datasets.append((item, other, charset_of(item) or charset_of(ours)))
    compared = 0
    for raw, decoded, charset in datasets:
        for value, vr, tag in coded_elements(raw):
            expected = decoded[tag].value
            expected = "\\".join(map(str, expected)) if decoded[tag].VM > 1 else str(expected)
            assert decoder(charset).text(value, vr).rstrip("=") == expected.strip(" ")
            compared += 1
    assert compared


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [  # the examples of PS3.5 H.3, I.2, J.3, K.2
        (JAPANESE, b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (r"ISO 2022 IR 13\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde=\x1b$B;3ED\x1b(J", "ﾔﾏﾀﾞ=山田"),
        (KOREAN, b"Hong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong=洪^吉洞"),
        (CHINESE, b"Zhang=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang=张^小东"),
        ("GB18030", b"Wang=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang=王^小东"),
        ("ISO_IR 192", "Wang=王^小東".encode(), "Wang=王^小東"),
    ],
)
def test_the_examples_of_the_standard(charset: str, raw: bytes, text: str) -> None:
    assert of(charset).text(raw, "PN") == text
    assert encode(text, charset, "PN") == raw


def test_a_delimiter_ends_a_code_extension_that_the_sender_left_on() -> None:
    """PS3.5 6.1.2.5.3: behind the delimiter the set of value 1 is active, here Latin-1 again."""
    raw = b"\x1b-F\xc4\xe9^J\xe9r\xf4me"
    assert of(r"ISO 2022 IR 100\ISO 2022 IR 126").text(raw, "PN") == "Δι^Jérôme"


def test_the_caret_is_a_delimiter_in_names_only() -> None:
    raw = b"\x1b-F\xc4^\xc4"
    coded = of(r"ISO 2022 IR 100\ISO 2022 IR 126")
    assert (coded.text(raw, "PN"), coded.text(raw, "LO")) == ("Δ^Ä", "Δ^Δ")


def test_half_a_character_that_looks_like_a_delimiter_is_none() -> None:
    assert of(JAPANESE).text(b"\x1b$B?=\x1b(B^\x1b$B?=\x1b(B", "PN") == "申^申"
    assert of("GB18030").text(b"\x82\x5c\\\x82\x5c", "LO") == "俓\\俓"


@pytest.mark.parametrize(
    "charset",
    ["ISO_IR 100", "ISO-IR 100", "ISO IR 100", "iso_ir 100", "ISO_IR_100", " ISO_IR 100 ", "ISO 2022 IR 100"],
)
def test_a_term_is_understood_however_it_is_spelt(charset: str) -> None:
    assert of(charset).codec == "latin_1"


@pytest.mark.parametrize(
    "charset", ["ISO_IR 192", "UTF-8", "utf8", r"\ISO_IR 192", r"ISO_IR 192\ISO 2022 IR 87"]
)
def test_utf_8_is_understood_where_it_is_not_allowed(charset: str) -> None:
    assert of(charset).text("Ärzte".encode(), "LO") == "Ärzte"


@pytest.mark.parametrize("charset", [None, b"", b"ISO_IR 6", b"NONSENSE", b"ISO_IR 999", b"\xff\xfe"])
def test_what_is_undeclared_is_read_as_latin_1(charset: bytes | None) -> None:
    assert decoder(charset).text(b"M\xfcller", "LO") == "Müller"


def test_an_escape_sequence_that_was_not_declared_is_followed() -> None:
    assert of("ISO_IR 100").text(b"\x1b$B;3ED\x1b(B", "LO") == "山田"


def test_what_cannot_be_decoded_is_replaced() -> None:
    assert of("ISO_IR 192").text(b"M\xfcller", "LO") == "M\N{REPLACEMENT CHARACTER}ller"
    assert of(KOREAN).text(b"\x1b$)C\xfb", "LO") == "\N{REPLACEMENT CHARACTER}"
    assert of(JAPANESE).text(b"\x1b%Gx", "LO") == "\N{REPLACEMENT CHARACTER}x"


@pytest.mark.parametrize(
    ("raw", "vr", "text"),
    [
        (b" A ", "LO", "A"),
        (b" A \\ B\0", "CS", "A\\B"),
        (b" A \\ B ", "ST", " A \\ B"),
        (b" A ", "UT", " A"),
        (b"1.2\0", "UI", "1.2"),
        (b"", "LO", ""),
        (b"\\", "LO", "\\"),
    ],
)
def test_padding_is_removed_as_the_vr_has_it(raw: bytes, vr: str, text: str) -> None:
    assert decoder(None).text(raw, vr) == text


@given(
    st.binary(max_size=60), st.lists(st.sampled_from(TERMS), max_size=4), st.sampled_from((*CODED_VRS, "CS"))
)
def test_any_bytes_decode(raw: bytes, terms: list[str], vr: str) -> None:
    assert isinstance(of("\\".join(terms)).text(raw, vr), str)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_any_specific_character_set_gives_a_decoder(charset: bytes, raw: bytes) -> None:
    assert isinstance(decoder(charset).text(raw, "PN"), str)


@given(st.text("aZ09äéßŁőΔωЖяกﾔ山丂한글张^=-", max_size=30))
def test_what_is_written_with_code_extensions_is_read_back(text: str) -> None:
    assert of(EVERYTHING).text(encode(text, EVERYTHING, "PN"), "PN") == text


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        (JAPANESE, "Yamada=山田^太郎"),
        (KOREAN, "Kim=김^희중"),
        (r"ISO 2022 IR 100\ISO 2022 IR 144", "Jérôme=Жук^é"),
    ],
)
def test_pydicom_reads_what_is_written_with_code_extensions(charset: str, text: str) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = charset.split("\\")
    encodings = pydicom.charset.convert_encodings(list(dataset.SpecificCharacterSet))
    assert str(pydicom.valuerep.PersonName(encode(text, charset, "PN"), encodings)) == text


@pytest.mark.parametrize(
    ("texts", "requested", "chosen"),
    [
        (["DOE^JOHN", ""], "ISO_IR 192", ("", "ascii")),
        (["Müller"], "ISO_IR 100", ("ISO_IR 100", "latin_1")),
        (["Müller", "Жук"], "ISO_IR 100", ("ISO_IR 192", "utf_8")),
        (["王^小东"], "GB18030", ("GB18030", "gb18030")),
        (["山田"], JAPANESE, (JAPANESE, None)),
        (["Müller"], JAPANESE, ("ISO_IR 192", "utf_8")),
        (["ﾔﾏﾀﾞ"], "ISO_IR 13", ("ISO_IR 13", None)),
        (["山田"], "ISO_IR 13", ("ISO_IR 192", "utf_8")),
        (["Müller"], "", ("ISO_IR 192", "utf_8")),
        (["Müller"], "NONSENSE", ("ISO_IR 192", "utf_8")),
    ],
)
def test_the_requestors_character_set_is_answered_when_it_can_carry_all(
    texts: list[str], requested: str, chosen: tuple[str, str | None]
) -> None:
    assert charset_for(iter(texts), requested) == chosen


@pytest.mark.parametrize(
    ("name", "requested", "fits"),
    [
        ("Yamada^Tarou=山田^太郎", JAPANESE, True),
        ("=山田", JAPANESE, True),
        ("山田^太郎", JAPANESE, False),
        ("ﾔﾏﾀﾞ=山田", r"ISO 2022 IR 13\ISO 2022 IR 87", True),
        ("Doe=\\山田", JAPANESE, False),  # the second of two names
        ("Müller^Жук", r"ISO 2022 IR 100\ISO 2022 IR 144", False),
        ("Müller=Жук", r"ISO 2022 IR 100\ISO 2022 IR 144", True),
        ("山田", "GB18030", True),
    ],
)
def test_an_alphabetic_name_has_no_escape_sequences(name: str, requested: str, fits: bool) -> None:
    """PS3.5 6.2.1.2."""
    assert charset_for([name], requested)[0] == requested
    chosen, _ = charset_for([name], requested, [name])
    assert chosen == (requested if fits else "ISO_IR 192")
    assert b"\x1b" not in encode(name, chosen, "PN").partition(b"=")[0]


@given(st.lists(st.text(max_size=10), max_size=3), st.lists(st.sampled_from(TERMS), max_size=3))
def test_the_chosen_character_set_loses_nothing(texts: list[str], terms: list[str]) -> None:
    _, codec = charset_for(texts, "\\".join(terms))
    if codec is not None:
        assert all(text.encode(codec).decode(codec) == text for text in texts)


def test_a_character_that_the_set_lacks_is_written_as_a_question_mark() -> None:
    assert encode("Жук", "ISO_IR 100") == b"???"
    assert encode("Жa", JAPANESE + r"\ISO 2022 IR 149") != b"?a"  # JIS X 0208 has Cyrillic
    assert encode("éa", KOREAN) == b"?a"
    assert encode("é", "NONSENSE") == b"?"


def test_names_compare_without_case_and_composition() -> None:
    assert search_key("MÜLLER") == search_key("Mu\N{COMBINING DIAERESIS}ller") == "müller"
    assert search_key("STRASSE") == search_key("straße")
    assert search_key("ΔΙΟΝΥΣΙΟΣ") == search_key("Διονυσιος")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("DOE^JOHN", "doe^john"),
        ("Doe^John^^^", "doe^john"),
        ("Doe ^ John ", "doe^john"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまだ^たろう"),
        ("=山田^", "=山田"),
        ("Doe^^=", "doe"),
        ("Doe^J^ \\ROE^R^", "doe^j\\roe^r"),
        ("", ""),
        ("^^^", ""),
    ],
)
def test_the_component_groups_of_a_name_stay_apart(name: str, key: str) -> None:
    assert person_name_key(name) == key


@pytest.fixture(autouse=True)
def _quiet_oracle() -> Iterator[None]:
    """pydicom warns about what these tests feed it on purpose."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
