"""docs/performance.md says what its results say: the page made anew from the files it names is the page."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest

from benchmarks import tables
from benchmarks.harness import SCHEMA, Row
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "performance.md"
PAIR = Row("zogy pair", "numba", "2048 x 2048", median_ms=100.0, iqr_ms=1.0, rounds=9, error=5e-4, tolerance=1e-3,
           error_of="S_corr, sigma", memory=22.0, of_bandwidth=0.1, ratios={"yardstick": 3.3})  # fmt: skip


def sources(*rows, gpu=None):
    head = {"schema": SCHEMA, "machine": {"cpu": "a chip", "cores": 2, "memory_gb": 24.0, "load": 0.1}, "threads": 2,
            "fft": "scipy", "versions": {"python": "3.11"}, "commit": "abc", "date": "2026-11-23T00:00:00+00:00",
            "command": "make bench", "bandwidth": {"gb_s": 20.0, "how": "triad"}, "rows": list(rows)}  # fmt: skip
    return tables.Sources(head, gpu=gpu)


def test_page_agrees_with_its_results():
    page = PAGE.read_text(encoding="utf-8")
    named = tables.named_sources(page, PAGE.parent)
    assert named.get("results"), "the page names no results"
    for path in named.values():
        assert path.is_file(), path
        assert path.resolve().is_relative_to(ROOT / "benchmarks" / "results")
    assert tables.fill(page, tables.load(**named)) == page


def test_page_has_every_table():
    assert set(re.findall(r"<!-- table (\w+) -->", PAGE.read_text(encoding="utf-8"))) == set(tables.TABLES)


def test_filling_is_idempotent_and_keeps_the_prose():
    text = "before\n<!-- table subtraction -->\nold\n<!-- end subtraction -->\nafter\n"
    once = tables.fill(text, sources(PAIR))
    assert once == tables.fill(once, sources(PAIR))
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert "| 2048 x 2048 | numba, one pair | 100 | 1 | 3.30 | 5.0e-04 | 22 | 10% |" in once


def test_failed_row_has_no_time_on_the_page():
    failed = replace(PAIR, failed=True, median_ms=None, iqr_ms=None, min_ms=None, ratios={})
    assert "| FAILED |" in tables.subtraction(sources(failed))
    assert "| one pair of 2048 x 2048 | not measured |" in tables.derived(sources(failed))


def test_derived_lines():
    fresh = replace(PAIR, variant="new PSFs", median_ms=125.0)
    stack = replace(PAIR, operation="zogy stack", images=16, median_ms=50.0)
    text = tables.derived(sources(PAIR, fresh, stack, replace(fresh, size="3080 x 3072", median_ms=200.0)))
    assert "| one ZTF night, 45 000 quadrants of 3080 x 3072 | 150 min | not measured |" in text
    assert "| one DECam exposure, 62 CCDs of 4096 x 2048 | not measured | not measured |" in text
    assert "| 2048 x 2048 pairs a second, each its own PSFs | 8 |" in text
    assert "| 2048 x 2048 pairs a second, a stack | 20 |" in text
    assert "| one Rubin visit, 189 CCDs of 4096 x 4096 | not measured |" in text


def test_derived_lines_of_a_device():
    row = {"name": "zogy: D + S_corr + flux, fused maps", "images": 8, "side": 2048, "median_ms": 1.6, "error": 1e-5,
           "share_of_copy": 0.5}  # fmt: skip
    survey = {"survey": "DECam exposure", "shape": [2048, 4096], "us_a_pair": 500.0}
    device = {"machine": {"details": {"device": "H200"}}, "rows": [row], "surveys": [survey],
              "chunks": [{"chunk": 4, "graph": True, "us_a_pair": 200.0}]}  # fmt: skip
    made = sources(replace(PAIR, variant="new PSFs"), replace(PAIR, operation="zogy stack"), gpu=device)
    text = tables.derived(made)
    assert "| 2048 x 2048 pairs a second, each its own PSFs | 10 | not measured |" in text
    assert "| 2048 x 2048 pairs a second, a stack | 10 | 5000 |" in text
    assert "| one DECam exposure, 62 CCDs of 4096 x 2048 | not measured | 0.031 s |" in text
    assert "on H200" in text
    page = tables.gpu(made)
    assert "| zogy: D + S_corr + flux, fused maps | 8 | 2048 | 1.600 | 50% | 1.0e-05 |" in page
    assert "| 4 | True | 200 |" in page


def test_main_writes_the_page(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(sources().results | {"rows": [asdict(PAIR)]}))
    page = tmp_path / "page.md"
    page.write_text("<!-- made of results= -->\n<!-- table machine -->\n<!-- end machine -->\n")
    assert tables.main([str(tmp_path / "r.json"), str(page)]) == 0
    text = page.read_text()
    assert text.startswith("<!-- made of results=r.json -->")
    assert "a chip" in text
    assert tables.named_sources(text, tmp_path) == {"results": tmp_path / "r.json"}


@pytest.mark.parametrize(("value", "text"), [(None, ""), (1234.0, "1234"), (0.123456, "0.123")])
def test_numbers(value, text):
    assert tables.number(value, ".3g" if value != 1234.0 else ".4g") == text
