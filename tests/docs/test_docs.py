"""The documentation builds, and what it says of commands, settings, files and code is true."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from polyfield._version import __version__
from polyfield.apps.cli import COMMANDS, cli
from polyfield.config import merge, parse_overrides
from polyfield.data.scene import SceneTransform
from polyfield.registry import KINDS, entries, lookup, names
from polyfield.renderers.paths import read_path
from polyfield.training.settings import resolve

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").glob("*.md")])
PICTURES_MADE_LATER = {DOCS / "images" / "readme.png"}
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the line it starts at."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a Markdown page."""
    pattern = re.compile(r"^(```+)(\S*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
    text = page.read_text(encoding="utf-8")
    return [Block(m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in pattern.finditer(text)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^(```+).*?^\1\s*$", "", page.read_text("utf-8"), flags=re.M | re.S)


def commands(page: Path, inline: bool = True) -> list[list[str]]:
    """Every ``polyfield ...`` call of a page, in shell blocks and (`inline`) in inline code."""
    lines = []
    for block in blocks(page):
        if block.language in ("bash", "console", "sh"):
            lines += block.text.replace("\\\n", " ").splitlines()
    if inline:
        lines += re.findall(r"`(polyfield [^`]+)`", prose(page))
    calls = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [call[1:] for call in calls if call[:1] == ["polyfield"]]


def options(command: click.Command) -> dict[str, click.Parameter]:
    """Long option -> parameter."""
    own = [p for p in command.params if isinstance(p, click.Option)]
    return {flag: p for p in own for flag in (*p.opts, *p.secondary_opts)}


def command_of(call: list[str]) -> click.Command:
    """The sub-command that a call names."""
    return cli.get_command(click.Context(cli), call[0])


def positional(call: list[str], known: dict[str, click.Parameter]) -> list[str]:
    """The arguments of a call that belong to no option."""
    found, skip = [], False
    for part in call[1:]:
        if not skip and not part.startswith("-"):
            found.append(part)
        takes_value = part in known and not known[part].is_flag
        skip = takes_value
    return found


def values(call: list[str], flag: str) -> list[str]:
    """What a call gives for an option, as ``--flag value`` or ``--flag=value``."""
    after = [b for a, b in zip(call, call[1:], strict=False) if a == flag]
    return after + [part.split("=", 1)[1] for part in call if part.startswith(flag + "=")]


def test_the_pages_are_found():
    assert {"README.md", "CHANGELOG.md", "index.md", "tour.md"} <= {page.name for page in PAGES}
    assert sum(len(commands(page)) for page in PAGES) > 20


# Building


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The built pages; any warning fails."""
    for package in ("sphinx", "furo", "myst_parser", "sphinx_click"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'polyfield[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-d", folder / "doctrees", DOCS, folder / "html"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_documentation_builds_without_warnings(html):
    for page in DOCS.glob("*.md"):
        assert (html / f"{page.stem}.html").is_file()


def test_every_link_between_built_pages_resolves(html):
    anchors = {
        p.name: set(re.findall(r'\bid="([^"]+)"', p.read_text("utf-8")))
        for p in html.glob("*.html")
    }
    generated = {"genindex.html", "search.html", "py-modindex.html"}
    broken = []
    for page in html.glob("*.html"):
        for target in re.findall(r'\bhref="([^"]+)"', page.read_text("utf-8")):
            if re.match(r"[a-z]+:", target) or page.name in generated:
                continue
            file, _, anchor = target.partition("#")
            name = file or page.name
            known = anchors.get(name)
            if known is None:
                known = set() if (html / name.split("?")[0]).exists() else None
            if known is None or (anchor and name in anchors and anchor not in known):
                broken.append(f"{page.name} -> {target}")
    assert not broken


def test_the_command_line_page_names_every_command_and_option(html):
    text = (html / "cli.html").read_text("utf-8")
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        for flag in options(command):
            assert f"{name}-{flag.lstrip('-')}" in text or flag in text, f"{name} {flag}"


def test_the_version_is_taken_from_the_package():
    conf = (DOCS / "conf.py").read_text("utf-8")
    assert __version__ not in conf
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@by_name
def test_relative_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", prose(page))
    for target in targets:
        file = (page.parent / target).resolve()
        if not re.match(r"[a-z]+:", target) and file not in PICTURES_MADE_LATER:
            assert file.exists(), target


# Commands


@by_name
def test_every_command_and_option_exists(page):
    for call in commands(page):
        if call[0].startswith("-"):
            assert call[0] in ("--help", "--version", "-h"), call
            continue
        assert call[0] in COMMANDS, f"unknown command in 'polyfield {shlex.join(call)}'"
        known = options(command_of(call))
        for part in call[1:]:
            if part.startswith("--"):
                flag = part.partition("=")[0]
                assert flag in known or flag == "--help", f"{flag} of 'polyfield {call[0]}'"


@by_name
def test_every_command_that_can_be_copied_is_complete(page):
    for call in commands(page, inline=False):
        if call[0] not in COMMANDS:
            continue
        known = options(command_of(call))
        needed = {p.opts[0] for p in known.values() if p.required}
        assert needed <= {part.partition("=")[0] for part in call}, shlex.join(call)
        arguments = [p for p in command_of(call).params if isinstance(p, click.Argument)]
        assert len(positional(call, known)) == len(arguments), shlex.join(call)


def named(call: list[str]) -> Iterator[tuple[str, str]]:
    """Registry kinds and names that a call mentions."""
    yield from (
        ("samples", part.removeprefix("sample:")) for part in call if part.startswith("sample:")
    )
    for kind in ("backbone", "renderer", "format"):
        yield from ((kind + "s", value) for value in values(call, f"--{kind}"))


@by_name
def test_every_component_that_a_command_names_exists(page):
    for call in commands(page):
        for kind, name in named(call):
            if name.isupper() or name == "my-fourier":  # a placeholder; the page's own example
                continue
            assert name in names(kind), f"{name} in 'polyfield {shlex.join(call)}'"
        if call[0] == "list" and len(call) > 1 and not call[1].isupper():
            assert call[1] in KINDS


@by_name
def test_every_setting_that_a_command_changes_is_accepted(page):
    for call in commands(page):
        pairs = [pair for pair in values(call, "--set") if pair != "KEY=VALUE"]
        backbone = values(call, "--backbone") or ["hash-grid"]
        presets = [p for p in values(call, "--preset") if not p.isupper()]
        if call[0] != "fit" or not (pairs or presets) or backbone == ["my-fourier"]:
            continue
        renderer = values(call, "--renderer") or ["volume"]
        types = {"backbone": {"type": backbone[0]}, "renderer": {"type": renderer[0]}}
        user = merge(types, parse_overrides(pairs))
        resolve(user, preset=(presets or [None])[0])


# Code


@by_name
def test_python_snippets_compile(page):
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text, f"{page.name}, line {block.line}")


@by_name
def test_names_imported_by_snippets_exist(page):
    for block in blocks(page):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polyfield"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "polyfield":
                assert hasattr(importlib.import_module("polyfield"), node.attr), ast.unparse(node)


@by_name
def test_modules_named_in_prose_exist(page):
    for name in re.findall(r"`(polyfield(?:\.\w+)+)(?:\(\))?`", prose(page)):
        if name.removeprefix("polyfield.") in KINDS:  # a group of entry points
            continue
        found = importlib.import_module("polyfield")
        for part in name.split(".")[1:]:
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


def test_the_camera_path_on_the_page_can_be_read(tmp_path):
    (example,) = [b.text for b in blocks(DOCS / "formats.md") if b.language == "json"]
    (tmp_path / "path.json").write_text(example, encoding="utf-8")
    cameras = read_path(tmp_path / "path.json", SceneTransform(scale=0.5))
    assert cameras.sizes.tolist() == [[320, 240]] * 2
    assert cameras.c2w[0, :, 3].tolist() == [0, -2, 0]
    assert (-cameras.c2w[0, :, 2]).tolist() == [0, 1, 0], "it looks at the origin"
    assert cameras.intrinsics[1, 0] > cameras.intrinsics[0, 0], "a smaller angle, a longer focus"


def test_the_default_presets_are_those_the_settings_page_names():
    text = page_text("settings")
    assert "`cpu` on\na CPU, else `paper`" in text
    assert resolve({}) == resolve({}, preset="cpu") != resolve({}, device="cuda")
    assert resolve({}, device="cuda") == resolve({}, preset="paper")


def test_every_component_with_settings_has_a_table_on_the_settings_page():
    text = page_text("settings")
    for kind in ("backbones", "fields", "renderers", "samplers", "ray-codes"):
        for entry in entries(kind):
            if entry.config is not None:
                path = f"{entry.config.__module__}:{entry.config.__name__}"
                assert path in text, f"{entry.name}: add {path} to docs/settings.md"


# The architecture page


def test_the_arrows_on_the_page_are_those_the_tests_enforce():
    enforced = runpy.run_path(str(ROOT / "tests" / "core" / "test_architecture.py"))["MAY_IMPORT"]
    row = r"^\| `(\w+)/` \| [^|]*\| [^|]*\| ([^|]*)\|$"
    rows = re.findall(row, page_text("architecture"), re.MULTILINE)
    shown = {folder: set(re.findall(r"`(\w+)`", allowed)) for folder, allowed in rows}
    assert shown == enforced


def page_text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


# The plug-in page


def test_a_package_that_follows_the_page_adds_its_backbone(tmp_path):
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    (snippet,) = [b.text for b in blocks(DOCS / "adding-a-backbone.md") if b.language == "toml"]
    points = tomllib.loads(snippet)["project"]["entry-points"]["polyfield.backbones"]
    ((name, module),) = points.items()
    package, _, file = module.partition(".")
    source = (ROOT / "examples" / "03_add_a_backbone.py").read_text("utf-8")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / f"{file}.py").write_text(source, encoding="utf-8")
    info = tmp_path / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[polyfield.backbones]\n{name} = {module}\n")
    done = subprocess.run(
        [sys.executable, "-m", "polyfield.apps", "list", "backbones", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert rows[name]["paper"] == "Tancik et al. 2020"
    assert name not in names("backbones"), "it came from the package alone"


def test_the_default_backbone_has_the_presets_the_tour_names():
    for preset in re.findall(r"--preset (\w+)", page_text("tour")):
        assert preset in lookup("backbones", "hash-grid").presets
