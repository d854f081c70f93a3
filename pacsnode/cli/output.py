"""Tables on standard output."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

UNBOUNDED = 1000  # columns; a file or a pipe has no width, and a cut value is of no use to a script


def print_table(table: "Table") -> None:
    """Print a table as wide as it has to be, or as the terminal is."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=UNBOUNDED)
    console.print(table)
