"""Real files by name."""

from pathlib import Path

from tests.conftest import real_objects

# What DCMTK cannot read, or sends with "31" (hexadecimal) for a UID; raw peers and pynetdicom send these.
NOT_FOR_DCMTK = {
    "SC_rgb_jpeg.dcm",
    "rtdose_rle.dcm",
    "rtdose_rle_1frame.dcm",
    "explicit_VR-UN.dcm",
    "liver_deflate.dcm",
    "liver_nonbyte_aligned_deflate.dcm",
}


def bundled() -> list[Path]:
    """pydicom's own test files: the same everywhere."""
    return [path for path in real_objects() if "test_files" in path.parts]


def named(*names: str) -> list[Path]:
    """Bundled files by name."""
    by_name = {path.name: path for path in bundled()}
    return [by_name[name] for name in names]
