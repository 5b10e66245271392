"""Every figure of the project: panels of curves side by side, drawn with matplotlib, which is wanted for this alone."""

from dataclasses import dataclass

# Curves have the default colours in turn; beyond ten the lines are dashed.
COLOURS = 10


@dataclass
class Panel:
    """One picture of a figure."""

    curves: dict  # label -> [(x, y)], or [(x, y, low, high)] with a band from low to high
    xlabel: str
    ylabel: str = ""
    title: str = ""
    top: float | None = None  # where the y axis ends; it begins at 0. None: where the curves do
    lines: bool = True  # False: points alone


def draw(panels: list[Panel], file, height: float = 3.4, dpi: int = 80, columns: int | None = None) -> None:
    """Write the panels as one figure: to a path (by its ending) or to a binary file (as SVG for a page of HTML).

    A label has the same colour in all panels, and stands in the legend of the first panel that has it. height: of a
    row; columns: panels of a row, None: all. ValueError, one line, where matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("a figure needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "skillmaster"  # equal figures are equal files
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["text.parse_math"] = False  # a run may be named $x
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, height * rows), squeeze=False,
                             constrained_layout=True)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    told: set[str] = set()
    for axis, panel in zip(axes.flat, panels):
        for label, points in panel.curves.items():
            number = labels.index(label)
            colour = f"C{number % COLOURS}"
            style = ("o" if not panel.lines else "o-" if number < COLOURS else "o--")
            x, y, *band = zip(*points) if points else ((), ())
            axis.plot(x, y, style, color=colour, markersize=3, label=None if label in told else label)
            if band:
                axis.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        if panel.top is not None:
            axis.set_ylim(0, panel.top)
        if any(label not in told for label in panel.curves):
            axis.legend(fontsize=8)
        told |= panel.curves.keys()
    for axis in axes.flat[len(panels):]:
        axis.remove()
    if hasattr(file, "write"):
        fig.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    else:
        fig.savefig(file, dpi=dpi)
    plt.close(fig)
