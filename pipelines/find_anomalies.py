"""Find images unlike those a model was trained on: `python pipelines/find_anomalies.py --help`."""

from __future__ import annotations

from pixelmodels.anomalies.find_anomalies import find_anomalies
from pixelmodels.anomalies.options import FindAnomalies
from pixelmodels.anomalies.report import separation_rows, told_of
from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.tables import plain_table, wide_console


def main(argv: list[str] | None = None) -> int:
    """Print how many images of each set are told, of two sets how well each score tells them apart, and where the rest is; status 0."""
    options = parse(FindAnomalies, argv)
    found = find_anomalies(options)
    for one in found.sets:
        print(f"{one.name}: {told_of(one, options.rate)}")
    if found.separations:
        cells = separation_rows(found.separations)
        table = plain_table()
        for place, name in enumerate(cells.header):
            table.add_column(name, justify="left" if place == 0 else "right")
        for row in cells.rows:
            table.add_row(*row)
        wide_console().print(table)
    print(found.folder)
    return 0


if __name__ == "__main__":
    exit_with(main)
