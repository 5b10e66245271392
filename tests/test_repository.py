"""Tests of this repository's shape: lengths, layout, README. A fork runs `pytest -m "not upstream and not slow"`."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import envs
from tests.real import ROOT

SEVEN = ("train", "policy", "skillbank", "probes", "dualadv_grpo", "envs", "eval")
ROOMS = ("worlds", "lib", "tools", "studies", "forks")
# Floors of the house: a module imports from its own floor and from those below.
FLOORS = [{"lib", "worlds"}, {"policy", "skillbank", "dualadv_grpo"}, {"envs"}, {"probes"}, {"tools"},
          {"train", "eval"}, {"studies", "forks"}]
READMES = [path for path in ROOT.rglob("README.md") if not {"runs", "venv", ".venv"} & set(path.parts)]
pytestmark = pytest.mark.upstream


@functools.cache
def modules():
    """{dotted name: its syntax tree} of the seven files and the rooms; a package is named like its folder."""
    files = [ROOT / f"{name}.py" for name in SEVEN] + [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return {name: ast.parse(path.read_text()) for name, path in zip(names, files)}


def imports(tree, known):
    """The known modules that a module imports, those inside its functions too: the most exact name that is known."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {part if part in known else node.module for part in parts}
    return names & known


def test_no_import_runs_upwards_or_in_a_circle():
    """Bug: envs.py imports a world that imports envs.py, and neither can be read, forked or tested alone."""
    trees = modules()
    graph = {name: imports(tree, trees.keys()) for name, tree in trees.items()}
    assert {"worlds.webshop.shop", "lib.streams", "studies.bench", "forks.gigpo", "worlds"} <= graph.keys()
    assert "policy" in graph["envs"] and "lib.streams" in graph["policy"], "the graph is really read"
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for name, targets in graph.items():
        room = name.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            assert floor[other] <= floor[room], f"{name} imports {target}, which stands above it"
            assert (room, other) not in (("lib", "worlds"), ("studies", "forks"), ("forks", "studies")), (name, target)
    assert not [name for name, targets in graph.items() if "train" in targets and name == "eval"]
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name):], name])}"
        if name not in done:
            path.append(name)
            for target in sorted(graph[name]):
                visit(target)
            done.add(path.pop())

    for name in graph:
        visit(name)


def test_the_method_files_import_what_the_design_says():
    """Bug: probes.py needs a tool, or dualadv_grpo.py the bank, and one must read everything to read anything."""
    trees = modules()
    allowed = {"dualadv_grpo": (), "skillbank": ("lib",), "policy": ("lib",),
               "envs": ("dualadv_grpo", "policy", "skillbank", "lib", "worlds"),
               "probes": ("envs", "skillbank", "policy", "lib")}
    for name, rooms in allowed.items():
        for target in imports(trees[name], trees.keys()):
            assert target.split(".")[0] in rooms, f"{name}.py imports {target}"
    assert "train" not in imports(trees["eval"], trees.keys())
    assert imports(trees["envs"], trees.keys()) & {name for name in trees if name.startswith("worlds")} == {"worlds"}


def test_dualadv_grpo_can_be_copied_into_any_project():
    """It imports torch and the standard library."""
    tree = modules()["dualadv_grpo"]
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found == {"torch", "dataclasses"}


def test_the_seven_files_stay_readable_in_one_sitting():
    """1,900 lines together, and no eighth module beside them."""
    assert {path.stem for path in ROOT.glob("*.py")} == set(SEVEN)
    assert sum(len((ROOT / f"{name}.py").read_text().splitlines()) for name in SEVEN) <= 1900


def test_the_readme_says_how_much_there_is_to_read():
    """Bug: a room grows by a quarter, and the README still sells the small one."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"([\d,]+) of [^.]*?`(lib|tools)/`", text)
    assert [room for _, room in found] == ["lib", "tools"]
    for said, room in found:
        there = sum(len(path.read_text().splitlines()) for path in (ROOT / room).glob("*.py"))
        assert abs(int(said.replace(",", "")) - there) <= 100, (room, there)


def test_no_world_is_named_in_the_method():
    """The released code branches on the environment's name in every layer, so the act loop exists three times."""
    for name, tree in modules().items():
        if name in SEVEN:
            for node in ast.walk(tree):
                if isinstance(node, ast.Compare | ast.ImportFrom):
                    assert not re.search(r"webshop|alfworld|guess", ast.unparse(node)), f"{name}.py:{node.lineno}"


def test_no_statements_are_squeezed_on_a_line():
    """No semicolons to get under the ceiling above."""
    for name, tree in modules().items():
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        lines = [node.lineno for node in statements if ast.unparse(node) != "..."]  # a Protocol's `def f(self): ...`
        assert len(lines) == len(set(lines)), name


def tracked():
    try:
        files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / file for file in files if (ROOT / file).is_file()]


def test_no_path_of_a_machine_and_no_registry_in_the_tree():
    """What is published must run elsewhere."""
    for path in tracked():
        if path.suffix in (".py", ".md", ".txt", ".ini", ".toml", ".sh", "") and path != Path(__file__):
            private = r"/(work|root|home/\w+)/|/opt/wheels|index-url|https?://[\w.]*py(pi|torch)\.org"
            found = re.search(private, path.read_text())
            assert not found, f"{path}: {found and found[0]}"


def test_the_readme_is_short():
    """Bug: 405 lines and 800 numbers, with the method after the results."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_readme_names_files_and_flags_that_exist(readme):
    """A README that names code which has moved is worse than none (nanoVLM's says "train.py ~200", really 702)."""
    text, folder = readme.read_text(), readme.parent
    quoted, linked = r"`([\w/]+\.(?:py|sh|md|png))`", r"\]\(([\w/.]+\.\w+)(?:#[\w-]*)?\)"
    for file in set(re.findall(quoted, text) + re.findall(linked, text)) - {"SKILL.md"}:
        assert (folder / file).is_file() or (ROOT / file).is_file() or list(folder.rglob(file)), f"{file} is not there"
    known = set()
    rooms = [ROOT / room for room in ("tools", "studies", "forks")]
    for script in [ROOT / "train.py", *(file for room in rooms for file in room.glob("*.py"))]:
        known |= set(re.findall(r"^    (\w+): \w+ = flag\(", script.read_text(), re.M))
        known |= set(re.findall(r'add_argument\("--(\w+)"', script.read_text()))
    known |= set(envs.Sampling.__dataclass_fields__)
    for world in (ROOT / "worlds").glob("*/world.py"):
        known |= set(re.findall(r'^ {8}"(\w+)": \(', world.read_text(), re.M))
    known |= {"help", "no", "config", "upgrade", "standalone", "nproc_per_node"}  # pip's, ruff's, mypy's, torchrun's
    flags = set(re.findall(r"(?<![\w-])--([a-z_]+)", text)) - {"config-file"}
    assert flags <= known, flags - known


def test_importing_train_loads_neither_the_page_nor_the_player():
    """Bug: a run, and every fork, waits for the report page, its templates and the terminal player to load."""
    code = "import sys, train; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"tools.page", "tools.watch", "tools.audit", "eval", "matplotlib", "jinja2"} & set(loaded.split())
