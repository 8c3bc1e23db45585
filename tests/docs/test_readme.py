"""What the documentation says runs, runs: Python blocks in order in one namespace, astrid-gpu commands as typed."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks

pytest.importorskip("astropy")
pytest.importorskip("h5py")
pytest.importorskip("matplotlib")

LANGUAGES = {"python", "bash", "console", "text", "bibtex", "toml", "math", "csv"}


def run_command(line: str) -> int:
    """Run one ``astrid-gpu`` line through the command line's own entry point."""
    from astrid_gpu.cli import main

    words = shlex.split(line, comments=True)
    assert words[0] == "astrid-gpu", f"only astrid-gpu commands are run: {line!r}"
    return main(words[1:])


def run_page(page: str) -> int:
    """Run the blocks of a page in the current folder; return how many ran."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            code = "\n" * block.line + block.text  # so that a traceback shows the line of the page
            exec(compile(code, str(ROOT / page), "exec"), namespace)
            ran += 1
        elif block.language in ("bash", "console"):
            for line in block.text.splitlines():
                command = line.removeprefix("$ ").strip()
                if command and not command.startswith("#"):
                    assert run_command(command) == 0, f"{page}, line {block.line}: {command}"
                    ran += 1
    return ran


@pytest.mark.parametrize("page", ["README.md", "docs/how-to.md", "docs/runs.md"])
def test_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_page(page) > 2
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES)
def test_blocks_name_their_language(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page}, line {block.line}: a block in {block.language!r}"
        commands = re.findall(r"^(?:\$ )?(\S+)", block.text, re.MULTILINE) if block.language == "bash" else []
        others = [c for c in commands if c not in ("astrid-gpu", "#")]
        assert block.reason or not others, (
            f"{page}, line {block.line}: {others} needs <!-- not run by the tests: why -->"
        )


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_printed_result_is_the_real_one(tmp_path, monkeypatch, capsys):
    """The text under the README's first example is what the example prints, to the digits that may differ."""
    monkeypatch.chdir(tmp_path)
    first, shown = blocks("README.md")[:2]
    assert (first.language, shown.language) == ("python", "text")
    exec(compile(first.text, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    # Backends and libraries may differ in the last digits and in the backend's name; structure and sources may not.
    words = [re.sub(r"[-+]?\d[\d.e+-]*", "#", text.replace("numba", "numpy")).split() for text in (printed, shown.text)]
    assert words[0] == words[1]
    places = [re.findall(r"x\s+([\d.]+) y\s+([\d.]+)", text) for text in (printed, shown.text)]
    assert len(places[0]) == len(places[1]) == 10
    for got, told in zip(*places, strict=True):
        assert float(got[0]) == pytest.approx(float(told[0]), abs=0.05)
        assert float(got[1]) == pytest.approx(float(told[1]), abs=0.05)
