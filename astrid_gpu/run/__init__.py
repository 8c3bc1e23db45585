"""Whole jobs: a pair of files to a folder of results."""

from astrid_gpu.run.pair import PairRun, run_pair

__all__ = ["PairRun", "run_pair"]
