"""Pictures of results, drawn with matplotlib's objects on Agg: no display, no global state, no pyplot."""

from __future__ import annotations

from astrid_gpu.report.sheet import candidate_sheet
from astrid_gpu.report.summary import summary_figure

__all__ = ["candidate_sheet", "summary_figure"]
