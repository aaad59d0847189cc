"""The house keeps its shape: one-way imports, cheap imports, no pickle, readable files."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
CORE = {"polyfield"}
MAY_IMPORT = {  # folder -> import names of design's table
    "polyfield": set(),
    "encodings": CORE,
    "fields": CORE | {"encodings"},
    "renderers": CORE | {"encodings"},
    "data": CORE | {"encodings", "renderers"},
    "training": CORE | {"encodings", "fields", "renderers", "data"},
    "apps": CORE | {"encodings", "fields", "renderers", "data", "training"},
}
SOURCES = [p for folder in MAY_IMPORT for p in sorted((ROOT / folder).rglob("*.py"))]


def imported(tree: ast.AST) -> set[str]:
    """Full names of the polyfield modules that a file imports when it is loaded or called."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "polyfield"}


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "polyfield"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    folder = path.relative_to(ROOT).parts[0]
    if path == ROOT / "polyfield" / "__init__.py":
        return  # the public face names the verbs and loads them lazily
    reached = {layer(name) for name in imported(ast.parse(path.read_text()))} - {folder}
    assert reached <= MAY_IMPORT[folder], f"{folder} may not import {reached - MAY_IMPORT[folder]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable_and_safe(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 500
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"line {node.lineno}: {node.func.id}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "joblib"} & {m.split(".")[0] for m in modules}
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or getattr(node.type, "id", "") in (
                "Exception",
                "BaseException",
            )
            assert not broad, f"line {node.lineno} catches everything"


def test_every_folder_with_code_is_packaged():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent.relative_to(ROOT) for p in SOURCES if p.name == "__init__.py"}
    names = {
        ".".join(("polyfield", *f.parts)).replace("polyfield.polyfield", "polyfield")
        for f in folders
    }
    assert sorted(listed) == sorted(names)


PUBLIC = [p for p in SOURCES if not p.name.startswith("_")]


@pytest.mark.parametrize("path", PUBLIC, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the file says nothing of itself"
    for node in tree.body:
        kinds = (ast.FunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def run(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


HEAVY = (
    "torch",
    "numba",
    "numpy",
    "open3d",
    "gradio",
    "nerfacc",
    "tinycudann",
    "imageio",
    "triton",
)


@pytest.mark.parametrize("action", ["import polyfield", "import polyfield; polyfield.__version__"])
def test_importing_polyfield_loads_nothing_heavy(action):
    code = (
        f"{action}\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert run(code) == []


def test_help_loads_nothing_heavy_and_takes_less_than_half_a_second():
    code = f"""
import contextlib, io, json, sys, time
start = time.perf_counter()
from polyfield.apps.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main(["--help"])
seconds = time.perf_counter() - start
loaded = [m for m in {HEAVY} if m in sys.modules]
print(json.dumps({{"seconds": seconds, "loaded": loaded, "help": out.getvalue()}}))
"""
    best = min((run(code) for _ in range(3)), key=lambda result: result["seconds"])
    assert best["loaded"] == []
    assert best["seconds"] < 0.5
    assert "Fit a field" in best["help"]


def test_optional_packages_are_not_needed_to_load_every_module():
    blocked = ("open3d", "gradio", "nerfacc", "tinycudann", "lpips", "tensorboard", "triton")
    code = f"""
import importlib, json, pkgutil, sys
for name in {blocked}:
    sys.modules[name] = None
import polyfield
found = []
for root in ("encodings", "fields", "renderers", "training", "data", "apps"):
    package = importlib.import_module("polyfield." + root)
    found.append(package.__name__)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            found.append(module.name)
print(json.dumps(found))
"""
    assert len(run(code)) > 20
