"""Tables on a terminal."""

from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> None:
    """Print a table to the terminal (extra ``experiments``); rows that hold a mean are set off.

    The first ``words`` columns are text, the others numbers; where all are text, the last one is wrapped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < words else "right", no_wrap=i < words - 1 or words < len(header))
    for row in rows:
        mean = row[1].startswith("mean")
        table.add_row(*row, style="bold" if mean else None, end_section=mean)
    console = Console()
    # A table cut off at the width of a narrow terminal, or at the 80 columns of piped output, helps nobody.
    needed = Measurement.get(Console(width=1000), console.options.update(width=1000), table).maximum
    Console(width=max(console.width, needed if words < len(header) else 100)).print(table)
