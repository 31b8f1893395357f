"""How every figure looks, and how it is written: as PNG and as SVG, for screen and print."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402

# Wong, "Points of view: Color blindness", Nature Methods 8, 441 (2011): told apart by everyone, and
# each has a marker of its own for print in grey.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]

pyplot.rcParams.update({
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "sluice",  # the same figure gives the same file
})


def style(index):
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def save(figure, folder, name):
    """Writes folder/name.png and .svg; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = folder / f"{name}.{suffix}"
        figure.savefig(path, bbox_inches="tight", metadata=metadata)
        names.append(path.name)
    pyplot.close(figure)
    return names


def file_word(text):
    """`text` as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)
