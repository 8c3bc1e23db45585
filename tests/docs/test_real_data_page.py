"""docs/real-data.md says what its results say: the page made anew from the file it names is the page."""

from __future__ import annotations

import re

import pytest

from benchmarks import real_figure, real_inject_tables, real_tables
from benchmarks.tables import fill, named_sources
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "real-data.md"


def run(pair="saao/0100-0007", method="zogy", **changes):
    """One run as `benchmarks.real_run` prints it."""
    classes = dict.fromkeys(real_tables.CLASSES, 0) | {"unexplained": 2, "known source": 1}
    source = {"what": "an event", "kind": "transient", "x": 10.0, "y": 20.0, "expected": True, "sign_right": True,
              "candidate": {"x": 10.1, "y": 20.0, "score": 70.0, "flux": 1.0, "flux_error": 0.1},
              "forced_score": 69.0, "forced_flux": 1.0, "forced_error": 0.1}  # fmt: skip
    point = {"source": "event", "mjd": 56507.5, "aperture": 20000.0, "flux": 25000.0, "error": 300.0}
    row = {
        "pair": pair, "method": method, "note": "", "ok": True, "commit": "abc", "mpix": 0.25, "width_raw": 0.9,
        "width": 1.0, "width_sky": 1.02, "width_sources": 0.95, "mean": 0.01, "tail": 2.0, "candidates": 3,
        "unflagged": 1, "classes": classes, "known": [source], "metrics": {"noise_factor": 1.2}, "photometry": [point],
        "left": [[5.0, 6.0, -5.5, 0]], "cost": {"seconds": 2.0, "cpu_seconds": 1.0, "peak_mb": 100.0},
    }  # fmt: skip
    return row | changes


def injected(method="zogy", **changes):
    photometry = {"n_bright": 30, "median_ratio": 1.001, "ratio_error": 0.002, "n_pull": 50, "pull_median": 0.1,
                  "pull_width": 1.05}  # fmt: skip
    row = {
        "pair": "saao/0100-0007", "method": method, "ok": True, "commit": "abc", "injected": 100, "mpix": 0.5,
        "completeness": {"uniform": [[4, 5, 50, 20], [5, 10, 50, 49]]}, "purity": [[5.0, 69, 60, 31, 2]],
        "photometry": {"uniform": {"found": photometry, "forced": photometry}},
        "local": [[0, 4, 10, 1], [4, 5, 40, 19], [5, 10, 50, 49]],
        "missed": {"of": 60, "causes": {"masked": 2, "chance": 1}, "rows": []},
    }  # fmt: skip
    return row | changes


def document(*runs, injections=()):
    return {
        "machine": {"cpu": "a chip", "cores": 2}, "versions": {"python": "3.11"}, "threads": 2, "commit": "abc",
        "date": "2026-11-28T00:00:00+00:00", "command": "python -m benchmarks.real_data", "runs": list(runs),
        "injections": list(injections),
    }  # fmt: skip


def test_page_agrees_with_its_results():
    page = PAGE.read_text(encoding="utf-8")
    path = named_sources(page, PAGE.parent).get("results")
    assert path is not None, "the page names no results"
    assert path.resolve().is_relative_to(ROOT / "benchmarks" / "results")
    assert fill(page, real_tables.load(path), real_tables.TABLES) == page


def test_page_has_every_table_and_its_figure():
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table (\w+) -->", page)) == set(real_tables.TABLES)
    assert f"({real_figure.FIGURE})" in page
    assert (PAGE.parent / real_figure.FIGURE).is_file()


def test_a_pair_has_a_line_for_each_method():
    text = real_tables.pairs(document(run(), run(method="classic", width_raw=1.3)))
    assert "| SAAO 0100-0007 | zogy | 0.90 | 1.02 | 0.95 | +0.010 | 2 | 1.20 | 3 | 12 | 2 | 1.0 | 100 |" in text
    assert "|  | classic | 1.30 |" in text


def test_stars_of_a_ztf_field_share_a_line():
    text = real_tables.pairs(document(run("ztf/r_1_star00"), run("ztf/r_1_star01", width_raw=1.1)))
    assert "| ZTF r_1 | zogy | 1.00 |" in text
    assert "| 6 | 12 | 4 | 2.0 | 100 |" in text


def test_what_failed_is_told_and_counted():
    bad = {"pair": "saao/0037-0007", "method": "zogy", "ok": False, "error": "PsfError: no stars"}
    doc = document(run(), bad)
    assert "| SAAO 0037-0007 | zogy | PsfError: no stars |" in real_tables.pairs(doc)
    assert real_tables.failures(doc) == "- saao/0037-0007, zogy: PsfError: no stars"
    assert "| zogy | 2 | 1 |" in real_tables.summary(doc)


@pytest.mark.parametrize(
    ("found", "sign", "told"),
    [
        ({"score": 70.0}, True, "+70.0"),
        ({"score": 70.0}, False, "+70.0, wrong sign"),
        (None, False, "missed (+4.0 there)"),
    ],
)
def test_a_known_source_is_found_or_missed(found, sign, told):
    row = run()
    row["known"][0] |= {"candidate": found, "sign_right": sign, "forced_score": 4.0}
    assert f"| SAAO 0100-0007 | an event (10, 20) | {told} |" in real_tables.known(document(row))
    wanted = "1 of 1" if found and sign else "0 of 1"
    assert f"| {wanted} |" in real_tables.summary(document(row))


def test_light_curve_and_its_ratio():
    text = real_tables.photometry(document(run()))
    assert "| 56507.500 | SAAO 0100-0007 | +20000 | +25000 ± 300 |" in text
    assert "| 1.25, scatter 0.00 |" in text


def test_injected_sources_are_pooled_over_the_fields():
    doc = document(run(), injections=[injected(), injected(pair="sfft/04b-04a")])
    assert "| uniform | zogy | 40 ± 5 % | 98 ± 1 % |" in real_tables.completeness(doc)
    assert "| SAAO 0100-0007 | zogy | 200 | 69 % (62) |" in real_tables.purity(doc)
    assert "| uniform | zogy | 30 | 1.001 ± 0.002 | 50 | +0.10 | 1.05 |" in real_tables.fluxes(doc)


def test_sources_are_counted_by_the_noise_at_their_place_and_the_missed_by_reason():
    classic = injected("classic", missed=None, local=[[0, 4, 10, 0], [4, 5, 40, 4], [5, 10, 50, 10]])
    doc = document(run(), injections=[injected(), injected(pair="sfft/04b-04a"), classic])
    assert "| zogy | 10 ± 7 % | 48 ± 6 % | 98 ± 1 % |" in real_inject_tables.local(doc)
    text = real_inject_tables.missed(doc)
    assert "| zogy | all | 120 | 6 | 4 | 2 |" in text
    assert "|  | SAAO 0100-0007 | 60 | 3 | 2 | 1 |" in text
    assert "classic" not in text
    assert real_inject_tables.missed(document(run())) == real_inject_tables.local(document(run())) == "Not measured."


def test_commits_of_the_rows_are_told_and_a_changed_tree_is_told_apart():
    assert "commit abc, `" in real_tables.machine(document(run(), injections=[injected()]))
    mixed = real_tables.machine(document(run(), run(method="classic", commit="def+")))
    assert "rows of commits abc, def+; + is a tree with changes" in mixed


@pytest.mark.parametrize(("n", "k", "text"), [(0, 0, ""), (100, 50, "50 ± 5 %"), (20, 20, "100 ± 2 %")])
def test_shares_have_binomial_errors(n, k, text):
    assert real_inject_tables.share(n, k) == text


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    doc = document(run(), injections=[injected(), injected("classic")])
    curves = real_tables.pooled_completeness(doc)
    curves |= {("local", name): rows for name, rows in real_inject_tables.pooled_local(doc).items()}
    path = real_figure.draw(curves, doc["injections"], tmp_path / "f.png")
    assert path.stat().st_size > 5000
