"""Make the pictures of the documentation from simulated data: ``python docs/make_images.py``. Seeded, no network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import astrid_gpu as ag

SEED = 7
SIDE = 150  # pixels of the crop


def pair_picture(path: Path) -> Path:
    """Draw science, reference, difference and S_corr of a piece of one simulated pair, with its candidates ringed."""
    field = ag.simulate.pair(seed=SEED)
    diff = ag.subtract(field.science, field.reference, backend="numpy")
    candidates = ag.detect(diff)
    y0, x0 = _busiest(candidates, np.isnan(diff.difference))
    crop = np.s_[y0 : y0 + SIDE, x0 : x0 + SIDE]
    figure = Figure(figsize=(12, 3.45), layout="constrained")
    FigureCanvasAgg(figure)
    noise = diff.metrics["sigma_science"]
    panels = (
        ("science", diff.science[crop], "gray_r", (-2 * noise, 12 * noise)),
        ("reference", diff.reference[crop], "gray_r", (-2 * noise, 12 * noise)),
        ("difference", diff.difference[crop], "RdBu_r", (-6 * noise, 6 * noise)),
        ("significance $S_{corr}$", diff.score_corr[crop], "RdBu_r", (-8, 8)),
    )
    for axes, (title, image, colours, limits) in zip(figure.subplots(1, 4), panels, strict=True):
        axes.imshow(image, origin="lower", cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        for row in candidates.data:
            x, y = row["x"] - x0, row["y"] - y0
            if 0 <= x < SIDE and 0 <= y < SIDE:
                colour = "#c2410c" if row["polarity"] > 0 else "#1d4ed8"
                axes.plot(x, y, "o", mfc="none", mec=colour, ms=15, mew=1.4)
        axes.set(xticks=[], yticks=[], xlim=(-0.5, SIDE - 0.5), ylim=(-0.5, SIDE - 0.5))
        axes.set_title(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _busiest(candidates: ag.Candidates, invalid: np.ndarray) -> tuple[int, int]:
    """Return the first row and column of the crop with the most candidates, of both signs and no holes if possible."""
    best, place = (-1, -1), (0, 0)
    for y in range(0, invalid.shape[0] - SIDE + 1, 10):
        for x in range(0, invalid.shape[1] - SIDE + 1, 10):
            if invalid[y : y + SIDE, x : x + SIDE].sum() > 10:
                continue
            dx, dy = candidates["x"] - x, candidates["y"] - y
            inside = (dx > 14) & (dx < SIDE - 14) & (dy > 14) & (dy < SIDE - 14)
            signs = len(np.unique(candidates["polarity"][inside]))
            if (signs, int(inside.sum())) > best:
                best, place = (signs, int(inside.sum())), (y, x)
    return place


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    sys.stdout.write(f"{pair_picture(folder / 'pair.png')}\n")
