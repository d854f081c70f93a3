"""Value Representations: the length of their length field, the words that byte order swaps (PS3.5 6.2, 7).

Tables only.
"""

from typing import Final

# A length of two bytes in explicit VR, of four in the others (PS3.5 7.1.2)
SHORT_VRS: Final = frozenset({
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
    b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
})  # fmt: skip
BULK_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"})
LONG_VRS: Final = BULK_VRS | {b"SQ", b"SV", b"UC", b"UR", b"UT", b"UV"}

# Bytes of the words that big endian turns round; a VR that is not here holds bytes
WORD_LENGTHS: Final = {
    b"AT": 2, b"OW": 2, b"SS": 2, b"US": 2,
    b"FL": 4, b"OF": 4, b"OL": 4, b"SL": 4, b"UL": 4,
    b"FD": 8, b"OD": 8, b"OV": 8, b"SV": 8, b"UV": 8,
}  # fmt: skip
