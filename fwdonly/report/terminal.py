"""Tables on a terminal."""

from collections.abc import Sequence


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2, spare: Sequence[str] = ()
) -> None:
    """Print a table to the terminal (extra ``experiments``); rows that hold a mean are set off.

    The first ``words`` columns are text, the others numbers; where all are text, the last one is wrapped. No row is
    broken: where the terminal is too narrow, columns of ``spare`` are left out, the first one first, and a line says
    which.
    """
    from rich.console import Console

    console, left_out = Console(), []
    # A pipe has no width: it gets all columns.
    while _needed(table := _table(title, header, rows, words)) > console.width and console.is_terminal:
        name = next((name for name in spare if name in header), None)
        if name is None:
            break
        at = list(header).index(name)
        header = [*header[:at], *header[at + 1 :]]
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
        left_out.append(name)
    wrapped = words >= len(header)
    Console(width=console.width if wrapped else max(console.width, _needed(table))).print(table)
    if left_out:
        print(f"(left out at {console.width} columns: {', '.join(left_out)}; table.md has all)")


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < words else "right", no_wrap=i < words - 1 or words < len(header))
    for row in rows:
        mean = len(row) > 1 and row[1].startswith("mean")
        table.add_row(*row, style="bold" if mean else None, end_section=mean)
    return table


def _needed(table) -> int:
    """The width at which no row is broken; tables of words are as narrow as they are told."""
    from rich.console import Console
    from rich.measure import Measurement

    wide = Console(width=1000)
    return Measurement.get(wide, wide.options.update(width=1000), table).maximum
