"""A figure drawn in another process, which imports matplotlib while this one is still computing what to draw."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.io.extras import need

if TYPE_CHECKING:
    from astrid_gpu.report.summary import Page

__all__ = ["Draughtsman"]

_CODE = "from astrid_gpu.report.elsewhere import _serve; _serve()"


class Draughtsman:
    """Draws one summary page in a process of its own; in this one where that cannot be or goes wrong.

    Nothing is started on a single core: there it would only cost the start.
    """

    def __init__(self) -> None:
        if find_spec("matplotlib") is None:  # looked for and not imported: that is the other process's work
            need("matplotlib", "report", "a figure")
        self._process: subprocess.Popen[bytes] | None = None
        self._task: tuple[Page, Path] | None = None
        if cpu_threads() > 1 and sys.executable:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )

    def draw(self, page: Page, path: str | Path) -> None:
        """Begin to draw a page; `finish` waits for it."""
        self._task = page, Path(path)
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it is dead; finish() draws
                pickle.dump(self._task, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
                self._process.stdin.close()

    def finish(self) -> Path:
        """Wait until the page is on disk and return where."""
        if self._task is None:
            msg = "nothing was given to draw"
            raise RuntimeError(msg)
        page, path = self._task
        if self._process is None or self._process.wait() != 0:
            from astrid_gpu.report.summary import draw_page

            draw_page(page, path)
        self._process = None
        return path

    def cancel(self) -> None:
        """Let the process go, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            self._process = None


def _serve() -> None:
    """Draw a blank page to nowhere while nothing waits, then fill it with what comes; what the process runs."""
    from astrid_gpu.report.summary import blank_page, draw_page, rehearse

    blank = blank_page()
    rehearse(blank)
    content = sys.stdin.buffer.read()
    if content:
        draw_page(*pickle.loads(content), blank=blank)  # noqa: S301 - from the process that started this one
    os._exit(0)  # somebody waits, and the interpreter takes its time to take itself down
