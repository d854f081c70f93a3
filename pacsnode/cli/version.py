"""`pacsnode version`."""


def version() -> None:
    """Print the versions of the node and of what it stands on."""
    import platform
    import sqlite3
    from importlib.metadata import version as version_of

    from pacsnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__

    print(f"pacsnode {__version__}")
    print(f"implementation {IMPLEMENTATION_VERSION_NAME} {IMPLEMENTATION_CLASS_UID}")
    libraries = ", ".join(f"{name} {version_of(name)}" for name in ("pydicom", "pynetdicom"))
    print(f"Python {platform.python_version()}, {libraries}, SQLite {sqlite3.sqlite_version}")
