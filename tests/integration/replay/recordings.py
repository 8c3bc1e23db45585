"""Recorded real answers of archives, as astroquery and pyvo carry them for their own tests, or from the data folder."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.conftest import ROOT
from tests.integration.replay.server import Answer

DATA = Path(os.environ.get("ASTRID_GPU_TEST_DATA", ROOT.parent / "shared" / "data"))


def recording(name: str) -> bytes:
    """Bytes of a recorded answer such as ``astroquery/mast/caom.json`` or ``pyvo/dal/sia/dataset.xml``; or a skip."""
    library, *folders, last = name.split("/")
    places = [DATA / "http" / name, DATA / "http" / name.replace("/dal/", "/")]
    spec = find_spec(library)
    if spec is not None and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        for depth in range(len(folders), 0, -1):
            places.insert(0, package.joinpath(*folders[:depth], "tests", "data", *folders[depth:], last))
    for place in places:
        if place.is_file():
            return place.read_bytes()
    pytest.skip(f"the recorded answer {name} is neither in the installed {library} nor under {DATA}")


def mashup(request) -> dict:
    """What a request asked MAST's portal for: service, params, ..."""
    return json.loads(parse_qs(request.body.decode())["request"][0])


def serve_mast(replay, **answers: str | Answer):
    """Point a server at recordings of MAST's portal: ``Caom_Filtered_Position="advSearchPos.json"`` and so on."""
    config = recording("astroquery/mast/columnsconfig.json")
    replay.add("/portal/Mashup/Mashup.asmx/columnsconfig", config, method="POST")
    for service, answer in answers.items():
        name = f"Mast.{service.replace('_', '.')}"
        given = answer if isinstance(answer, Answer) else Answer(recording(f"astroquery/mast/{answer}"))
        replay.add("/api/v0/invoke", given, method="POST", when=lambda r, n=name: mashup(r)["service"] == n)
