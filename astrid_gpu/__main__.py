"""``python -m astrid_gpu`` is ``astrid-gpu``."""

import sys

from astrid_gpu.cli import main

sys.exit(main())
