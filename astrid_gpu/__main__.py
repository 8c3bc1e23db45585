"""``python -m astrid_gpu`` is ``astrid-gpu``."""

from astrid_gpu.cli import entry

entry()
