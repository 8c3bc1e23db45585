"""Code blocks of Markdown pages, with the language and the line of each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/concepts.md", "docs/how-to.md", "docs/comparison.md"),
    "docs/performance.md",
    "docs/runs.md",
)

# A comment on the line above a block says why it is not run; readers of the rendered page do not see it.
_FENCE = re.compile(
    r"^(?:<!-- not run by the tests: (\S[^\n]*) -->\n)?```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL
)


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
        reason, language, body = match.groups()
        found.append(Block(language, body, text.count("\n", 0, match.start(2)) + 1, reason or ""))
    return found
