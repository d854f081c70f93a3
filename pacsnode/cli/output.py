"""What commands print: tables on standard output, reasons in their errors."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

UNBOUNDED = 1000  # columns; a file or a pipe has no width, and a cut value is of no use to a script


def reason_of(error: Exception) -> str:
    """Why it failed; of what the system says neither the number nor, once more, the file."""
    return getattr(error, "strerror", None) or str(error)


def print_table(table: "Table") -> None:
    """Print a table as wide as it has to be, or as the terminal is."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=UNBOUNDED)
    console.print(table)
