"""Code blocks of Markdown pages, with the language and the line of each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/concepts.md", "docs/how-to.md", "docs/comparison.md")

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"#\s*not run by the tests: (\S.*)")


class Block(NamedTuple):
    """One fenced block; `reason` says why it is not run, and is empty if it is."""

    language: str
    text: str
    line: int
    reason: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        reason = _NOT_RUN.search(match.group(2))
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match.group(1), match.group(2), line, reason.group(1) if reason else ""))
    return found
