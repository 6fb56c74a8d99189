"""Rules of the house that a reader relies on: who imports whom, what is slow to import, what is packaged."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("configs", "data", "launcher", "trainer")
# room -> the rooms it may import
ALLOWED = {
    "configs": {"configs"},
    "data": {"configs", "data"},
    "trainer": {"configs", "data", "trainer"},
    "launcher": {"configs", "data", "launcher"},
}
SOURCES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_rooms_import_only_the_rooms_they_may(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0]
    used = {name.split(".")[1] for name in imports(file) if name.startswith("megabatch.")}
    assert used <= ALLOWED[room]


@pytest.mark.parametrize(
    "module", ["megabatch.launcher.cli", "megabatch.launcher.run_commands", "megabatch.configs.load"]
)
def test_the_launcher_never_imports_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_imports_neither_the_schema_nor_yaml() -> None:
    """What keeps `megabatch --help` under 0.2 s; benchmarks/startup.py has the seconds."""
    code = (
        "import sys; sys.argv = ['megabatch', '--help']\n"
        "from megabatch.launcher.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'numpy', 'pydantic', 'ruamel.yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_every_package_is_in_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {
        file.parent.relative_to(ROOT) for room in (*ROOMS, "slurm") for file in (ROOT / room).rglob("__init__.py")
    }
    assert listed == {"megabatch." + ".".join(folder.parts) for folder in folders}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_opens_with_a_docstring_and_stays_small(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    assert len(file.read_text().splitlines()) <= 300


UNSAFE = re.compile(
    r"(?<!\w)(pickle|marshal|dill|cloudpickle|joblib)\.(load|dump)|(?<!\w)shelve\.|allow_pickle=True"
    r"|shell=True|os\.(system|popen)\(|subprocess\.get(status)?output|(?<![\w.])(eval|exec)\("
    r"|yaml\.(load|unsafe_load|full_load)\(|YAML\((?!typ=\"safe\")|\.extract(all)?\("
    r"|torch\.load\((?!.*weights_only=True)|weights_only=False"
    r"|(all_gather_object|gather_object|scatter_object_list|broadcast_object_list|send_object|recv_object)"
    r"|tempfile\.mktemp|verify=False|_create_unverified_context|http\.server|socketserver"
)


def test_nothing_unsafe_is_called() -> None:
    lines = [(file, line.strip()) for file in SOURCES for line in file.read_text().splitlines()]
    assert [f"{file.name}: {line}" for file, line in lines if UNSAFE.search(line) and line[:1] != "#"] == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.loads(x)", "marshal.load(f)", "np.load(f, allow_pickle=True)", "run(c, shell=True)", "os.popen(c)",
        "x = eval(c)", "exec(code)", "yaml.unsafe_load(f)", "YAML()", 'YAML(typ="unsafe")', "tar.extractall(d)",
        "torch.load(f)", "dist.all_gather_object(o, x)", "tempfile.mktemp()", "requests.get(u, verify=False)",
    ],
)  # fmt: skip
def test_the_gate_knows_what_is_unsafe(line: str) -> None:
    assert UNSAFE.search(line)


def test_the_scripts_of_slurm_evaluate_nothing() -> None:
    scripts = sorted((ROOT / "slurm").glob("*.sbatch"))
    assert scripts
    commands = [
        line.partition("  #")[0] for file in scripts for line in file.read_text().splitlines() if line[:1] != "#"
    ]
    read_in = [line for line in commands if re.search(r"(?<![\w-])(eval|source|\.)\s", line)]
    assert set(read_in) == {'if [ -f "$run/job.environment" ]; then source "$run/job.environment"; fi'}


def test_only_the_launcher_and_the_world_read_the_environment() -> None:
    readers = {str(f.relative_to(ROOT)) for f in SOURCES if "os.environ" in f.read_text()}
    assert readers == {
        "configs/load.py",  # ${env:NAME}
        "launcher/command.py",
        "trainer/node/meeting.py",  # the interface that the user chose
        "trainer/node/ranks.py",  # gives each rank its own
        "launcher/hosts/agent.py",  # of a host that was reached by ssh
        "launcher/pod.py",
        "launcher/preflight.py",  # which GPUs are to be seen
        "launcher/prepare.py",
        "trainer/__main__.py",
        "trainer/host.py",
        "trainer/trackers/wandb_tracker.py",
        "trainer/world.py",
    }


def test_documents_link_to_files_that_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
