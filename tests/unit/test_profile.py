"""A run's account of its time, and the picture that another process draws."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from astrid_gpu.report import elsewhere
from astrid_gpu.report.elsewhere import Draughtsman
from astrid_gpu.report.summary import draw_page, summary_page
from astrid_gpu.results import Difference
from astrid_gpu.run.profile import Profile, process_age


def test_lines_add_up_to_the_total():
    profile = Profile(before=2.0)
    with profile.stage("reading", "one file"):
        time.sleep(0.02)
    time.sleep(0.01)
    with profile.stage("other"):
        time.sleep(0.03)
    profile.split({"stars": 0.01, "PSFs": 0.005}, {"stars": "12 stars"})
    profile.tell("the rest")
    profile.stop()
    lines = {line.stage: line for line in profile.lines}
    assert list(lines) == ["start", "reading", "stars", "PSFs", "other", "between"]
    assert sum(line.seconds for line in profile.lines) == pytest.approx(profile.total, abs=1e-9)
    assert lines["start"].seconds == 2.0
    assert lines["stars"].did == "12 stars"
    assert lines["other"].did == "the rest"
    assert lines["between"].seconds >= 0.01
    assert profile.seconds()["total"] == profile.total


def test_it_prints_a_line_a_stage_with_its_share():
    profile = Profile(before=3.0)
    with profile.stage("reading", "two files"):
        pass
    profile.stop()
    rows = str(profile).splitlines()
    assert "3.000 s 100.0 %  start" in rows[0]
    assert rows[1].endswith("reading  two files")
    assert rows[-1].endswith("100.0 %  total")


def test_a_stage_that_fails_is_counted():
    profile = Profile()
    with pytest.raises(ValueError, match="no"), profile.stage("detection"):
        raise ValueError("no")
    assert [line.stage for line in profile.lines] == ["detection"]


def test_the_age_of_the_process_grows():
    first = process_age()
    time.sleep(0.05)
    assert 0 < first < process_age()


def page(rng):
    image = rng.normal(size=(40, 50))
    return summary_page(Difference(image, score_corr=image, science=image, reference=image), None)


def test_another_process_draws_the_same_picture(tmp_path, rng):
    small = page(rng)
    draughtsman = Draughtsman()
    draughtsman.draw(small, tmp_path / "there.png")
    assert draughtsman.finish() == tmp_path / "there.png"
    draw_page(small, tmp_path / "here.png")
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_without_another_process_it_is_drawn_here(tmp_path, rng, monkeypatch):
    small = page(rng)
    monkeypatch.setattr(elsewhere, "_CODE", "raise SystemExit(3)")  # dies before it has drawn
    failing = Draughtsman()
    failing.draw(small, tmp_path / "a.png")
    assert failing.finish().exists()
    monkeypatch.setattr(sys, "executable", "")
    alone = Draughtsman()
    alone.draw(small, tmp_path / "b.png")
    assert alone.finish().read_bytes() == (tmp_path / "a.png").read_bytes()


def test_a_cancelled_one_leaves_nothing(tmp_path, rng):
    draughtsman = Draughtsman()
    draughtsman.cancel()
    draughtsman.cancel()
    with pytest.raises(RuntimeError, match="nothing was given"):
        draughtsman.finish()
    assert np.size(list(tmp_path.iterdir())) == 0


ENDING = """
import atexit, sys, threading, time
import astrid_gpu.cli as cli
cli.main = lambda: print('told', flush={flush}) or {code}
atexit.register(lambda: print('handler', flush=True))
threading.Thread(target=lambda: time.sleep(0.2) or print('thread', flush=True)).start()
{before}
cli.entry()
"""


@pytest.mark.parametrize("before", ["", "sys.setprofile(lambda *_: None)"])
@pytest.mark.parametrize(("code", "flush"), [(0, True), (2, False)])
def test_the_program_ends_with_its_code_threads_and_handlers(before, code, flush):
    import subprocess

    text = ENDING.format(before=before, code=code, flush=flush)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert sorted(done.stdout.split()) == ["handler", "thread", "told"]
    assert done.stdout.split().index("thread") < done.stdout.split().index("handler")
