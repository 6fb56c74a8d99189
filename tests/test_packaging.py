"""The wheel and the sdist, built and used outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.report_runs import bare_run

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist built from a copy of the sources, the wheel from the sdist, installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("package")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink() and not name.startswith(("tests/", ".typing/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "source")]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder / "site"),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return folder


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    empty = installed / "empty"
    empty.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)


def test_the_installed_command_works_in_an_empty_folder(installed: Path) -> None:
    script = str(installed / "site" / "bin" / "megabatch")
    done = run(installed, sys.executable, script, "config", "show", "imagenet-vit", "--cluster", "slurm-example")
    assert done.returncode == 0, done.stderr
    assert "name: imagenet-vit" in done.stdout
    made = run(installed, sys.executable, script, "new", "project")
    assert made.returncode == 0, made.stderr
    assert (installed / "empty" / "project" / "recipe.yaml").exists()
    completed = run(
        installed, sys.executable, "-c", "from megabatch.launcher import completion as c; print(c._keys().keys())"
    )
    assert completed.stdout == "dict_keys(['recipe', 'cluster'])\n", completed.stderr
    assert run(installed, sys.executable, script, "--version").stdout.startswith("megabatch 0.")


def test_every_module_can_be_imported_from_the_wheel(installed: Path) -> None:
    site = installed / "site" / "megabatch"
    modules = sorted(
        "megabatch." + ".".join(file.relative_to(site).with_suffix("").parts).removesuffix(".__init__")
        for file in site.rglob("*.py")
        if file.parent.name != "new_project" or file.stem == "__init__"  # `megabatch new` copies the others
    )
    assert len(modules) > 60
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n  print(importlib.import_module(name).__file__)"
    done = run(installed, sys.executable, "-c", code, *modules)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(site)) for line in done.stdout.split())


def test_the_installed_command_writes_a_report_with_its_style_and_script(installed: Path) -> None:
    run_dir = bare_run(installed / "run")
    done = run(installed, sys.executable, str(installed / "site" / "bin" / "megabatch"), "report", str(run_dir.root))
    assert done.returncode == 0, done.stderr
    assert "The training has not begun." in run_dir.report.read_text()


@pytest.mark.slow
def test_the_wheel_trains_in_an_environment_that_has_nothing_else(installed: Path, tmp_path: Path) -> None:
    """A new virtual environment, the wheel and what it asks for, an empty folder: the README's three commands."""
    (wheel,) = (installed / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    command = tmp_path / "venv" / "bin"
    install = [str(command / "python"), "-m", "pip", "install", "--quiet", f"megabatch @ {wheel.as_uri()}"]
    subprocess.run(install, check=True, capture_output=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (
        "data example digits-images",
        "data import digits-images data/digits --split train=0.8,validation=0.1,test=0.1",
        "launch digits --run-dir run",
    ):
        done = subprocess.run(
            [str(command / "megabatch"), *arguments.split()], cwd=empty, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert json.loads((empty / "run" / "result.json").read_text())["test"]["top1"] >= 0.97


def test_the_sdist_has_what_a_build_needs_and_no_data(installed: Path) -> None:
    (sdist,) = (installed / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "slurm/job.sbatch", "configs/recipes/digits.yaml"} <= names
    assert not [name for name in names if name.endswith((".tar", ".zip", ".safetensors", ".jpg"))]
