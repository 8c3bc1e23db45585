"""Kernel sources: ``*.cu`` for the GPU and ``*_numba.py`` for the CPU, one stem a story. See README.md here."""
