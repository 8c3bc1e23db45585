"""Who may import whom: lower layers never import higher ones, and heavy libraries stay in their places."""

from __future__ import annotations

import pytest

from tests.layout.source_tree import front_page_names, imports, modules

# Lowest first; the table of the design. A module is placed by the first part of its name below astrid_gpu.
LAYERS = [
    {"errors", "flags"},
    {"kernels", "backends"},
    {"ops"},
    {"io", "image", "results", "config"},
    {"engine"},
    {"align", "calibrate", "stars", "psf", "tiles", "subtract", "subtract_stack", "detect", "cutouts", "quality"},
    {"dataset", "simulate", "acquire"},
    {"run", "report"},
    {"cli", "compat", "demo", "__main__"},
]
# Private modules beside the stages belong to the stages, those of the demo to the demo.
PRIVATE_LAYER = 5
DEMO_LAYER = 8

ASTRONOMY = {"astropy", "photutils", "sep", "reproject", "astroalign", "gwcs"}
FILES_AND_FIGURES = {"h5py", "matplotlib", "PIL", "jinja2"}
NETWORK = {"requests", "httpx", "aiohttp", "socket", "http", "ftplib", "astroquery", "pyvo", "fastavro", "urllib"}
PURE = ("errors", "flags", "kernels", "backends", "ops", "engine")

MODULES = modules()


def part(name):
    """First part of a module name below the package; '' for the package itself."""
    return name.split(".")[1] if "." in name else ""


def layer(name):
    first = part(name)
    for rank, members in enumerate(LAYERS):
        if first in members:
            return rank
    if first.startswith("_demo"):
        return DEMO_LAYER
    return PRIVATE_LAYER if first.startswith("_") else None


def public_home(name):
    """Module that a name of the package's front page lives in."""
    import astrid_gpu

    return astrid_gpu._PUBLIC.get(name)


def own_imports(name, path):
    """Imports of our own modules as (module, line); names of the front page count as the module they live in."""
    used = [(f"astrid_gpu.{attribute}", line) for attribute, line in front_page_names(path)]
    used += [(module, line) for module, line, _ in imports(name, path) if module.startswith("astrid_gpu.")]
    for module, line in used:
        if f"astrid_gpu.{part(module)}" in MODULES and public_home(part(module)) is None:
            yield module, line
        elif part(module) != "__version__":
            yield public_home(part(module)) or module, line


def test_the_tree_was_found():
    assert "astrid_gpu.align" in MODULES
    assert "astrid_gpu.kernels.zogy_numba" in MODULES
    assert len(MODULES) > 40


def test_every_module_has_a_layer():
    homeless = [name for name in MODULES if name != "astrid_gpu" and layer(name) is None]
    assert not homeless, f"name their layer in LAYERS: {homeless}"


def reference_of(name):
    """The reference that a kernel is the twin of: one stem, one story, so it may take constants from there."""
    return f"astrid_gpu.ops.{name.split('.')[-1].removesuffix('_numba')}" if part(name) == "kernels" else None


@pytest.mark.parametrize("name", [name for name in MODULES if name != "astrid_gpu"])
def test_imports_only_downwards(name):
    path, own = MODULES[name], layer(name)
    wrong = []
    for module, line in own_imports(name, path):
        if f"{module}.".startswith(f"{reference_of(name)}."):
            continue
        if (rank := layer(module)) is None or rank > own:
            wrong.append(f"line {line}: {module}")
    assert not wrong, f"{name} (layer {own}) imports upwards: {wrong}"


@pytest.mark.parametrize("name", MODULES)
def test_gpu_and_jit_libraries_stay_in_their_backends(name):
    path = MODULES[name]
    roots = {module.split(".")[0]: line for module, line, _ in imports(name, path)}
    allowed_cupy = name == "astrid_gpu.backends.cupy_"
    allowed_numba = name == "astrid_gpu.backends.numba_" or (part(name) == "kernels" and name.endswith("_numba"))
    for library in ("cupy", "cupyx", "cupy_backends"):
        assert allowed_cupy or library not in roots, f"{name} line {roots[library]} imports {library}"
    assert allowed_numba or "numba" not in roots, f"{name} line {roots['numba']} imports numba"


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) in PURE])
def test_pure_layers_know_no_astronomy_files_or_network(name):
    for module, line, _ in imports(name, MODULES[name]):
        root = module.split(".")[0]
        assert root not in ASTRONOMY | FILES_AND_FIGURES | NETWORK, f"{name} line {line} imports {module}"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_are_imported_where_they_are_used(name):
    """Inside functions, so that importing a stage costs nothing and a missing extra hurts only who needs it."""
    heavy = ASTRONOMY | FILES_AND_FIGURES | {"astroquery", "pyvo", "fastavro", "dask", "distributed"}
    wrong = [(m, line) for m, line, at_load in imports(name, MODULES[name]) if at_load and m.split(".")[0] in heavy]
    assert not wrong, f"{name} imports at load: {wrong}"


def test_no_other_layer_opens_fits():
    """Fits files are opened in one place: nobody else imports astropy.io."""
    wrong = [
        f"{name} line {line}"
        for name, path in MODULES.items()
        if part(name) != "io"
        for module, line, _ in imports(name, path)
        if module.startswith("astropy.io")
    ]
    assert not wrong, f"open FITS outside of astrid_gpu.io: {wrong}"


def test_only_acquisition_reaches_the_network():
    wrong = [
        f"{name} line {line}: {module}"
        for name, path in MODULES.items()
        if part(name) != "acquire"
        for module, line, _ in imports(name, path)
        if module.split(".")[0] in NETWORK - {"fastavro"}
    ]
    assert not wrong, f"go through astrid_gpu.acquire: {wrong}"
