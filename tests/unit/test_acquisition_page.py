"""docs/acquisition.md says what the code says: the columns, the policy's numbers."""

from __future__ import annotations

import re

from astrid_gpu.acquire import COLUMNS, Policy
from tests.layout.source_tree import ROOT

PAGE = (ROOT / "docs" / "acquisition.md").read_text(encoding="utf-8")
MARK = "<!-- columns: made by tests/unit/test_acquisition_page.py -->\n"


def column_table():
    lines = ["| column | unit | what |", "| --- | --- | --- |"]
    for column in COLUMNS:
        unit = column.unit or {"str": "text", "int": "integer", "float": ""}[column.type]
        lines.append(f"| `{column.name}` | {unit} | {column.told}{' (required)' if column.required else ''} |")
    return "\n".join(lines) + "\n"


def test_columns_are_those_of_the_code():
    """To renew it after a change: python -m tests.unit.test_acquisition_page."""
    assert MARK + column_table() in PAGE


def test_policy_is_told_as_it_is():
    policy, said = Policy(), " ".join(PAGE.split())
    assert policy.attempts == 5
    assert "five attempts in all" in said
    assert f"at most {policy.longest_wait:g} s" in said
    assert f"{policy.connect_timeout:g} s to connect, {policy.read_timeout:g} s for the next byte" in said
    assert f"{policy.least_rate:g} bytes a second for {policy.stall_timeout:g} s" in said
    assert policy.per_second == 5
    assert policy.workers == 4
    assert "Five requests a second to one host, four files at a time" in said


def renew():
    start = PAGE.index(MARK) + len(MARK)
    end = start + re.search(r"^(?!\|)", PAGE[start:], re.MULTILINE).start()
    (ROOT / "docs" / "acquisition.md").write_text(PAGE[:start] + column_table() + PAGE[end:], encoding="utf-8")


if __name__ == "__main__":
    renew()
