"""Bar charts of the benchmarks' tables, with matplotlib where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path


def bars(
    path: Path, title: str, series: dict[str, dict[str, float]], line: float | None = None, logarithmic: bool = False
) -> None:
    """Horizontal bars for the rows of a table, one for each series, written to `path` (SVG or PNG, by its ending).

    series: by name, the rows' numbers; line: a number to mark.
    """
    try:
        import matplotlib
    except ImportError:
        print(f"there is no matplotlib: {path} is not drawn", file=sys.stderr)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(dict.fromkeys(row for values in series.values() for row in values))
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.2 * len(rows) * (len(series) + 1)), layout="constrained")
    height = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        at = [i + height * (k - (len(series) - 1) / 2) for i, row in enumerate(rows) if row in values]
        drawn = axes.barh(at, [values[row] for row in rows if row in values], height, label=name)
        axes.bar_label(drawn, fmt="{:.3g}", padding=3, fontsize=8)
    if line is not None:
        axes.axvline(line, color="black", linewidth=0.8)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(title, fontsize=10)
    if len(series) > 1:
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    print(f"drawn: {path}")
