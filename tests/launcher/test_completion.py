"""What Tab offers: through the functions that the shells call, and in a real bash with the installed script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.launcher.cli import app


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: digits\nname: mine\noptimizer: {name: sgd, base_learning_rate: 0.1}\n")
    for number, name in enumerate(("old", "new")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "job.yaml").write_text("")
        os.utime(tmp_path / "runs" / name / "job.yaml", (number, number))
    return tmp_path


def offered(line: str) -> list[str]:
    """What zsh and fish are offered at the end of a line; they leave `key=value` whole."""
    env = {
        "_MEGABATCH_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = CliRunner().invoke(app, [], prog_name="megabatch", env=env)
    return [text.split("\t")[0] for text in result.stdout.splitlines() if text]


def offered_by_bash(*words: str) -> list[str]:
    """What bash is offered for its last word; it takes words apart at `=`."""
    env = {"_MEGABATCH_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], prog_name="megabatch", env=env).stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("megabatch la", ["launch"]),
        ("megabatch launch dig", ["digits"]),
        ("megabatch plan m", ["mine.yaml"]),
        ("megabatch launch digits batch.m", ["batch.micro_batch=", "batch.micro_batch=32"]),
        ("megabatch launch digits engine=d", ["engine=ddp", "engine=deepspeed"]),
        ("megabatch plan mine.yaml optimizer.mo", ["optimizer.momentum=", "optimizer.momentum=0.9"]),
        ("megabatch plan mine.yaml optimizer.trust", []),
        ("megabatch plan mine.yaml optimizer=lars optimizer.trust", ["optimizer.trust_coefficient="]),
        ("megabatch launch digits deterministic=t", ["deterministic=true"]),
        ("megabatch launch digits cluster.dev", ["cluster.device=", "cluster.device=cpu", "cluster.device=cuda"]),
        ("megabatch launch digits cluster.backend=s", ["cluster.backend=slurm", "cluster.backend=ssh"]),
        ("megabatch plan digits --cluster la", ["laptop"]),
        ("megabatch launch --resume ", ["latest", "runs/new", "runs/old"]),
        ("megabatch eval runs/o", ["runs/old"]),
        ("megabatch runs remove ", ["runs/new", "runs/old"]),
        ("megabatch prune latest evaluation.every", ["evaluation.every_epochs=", "evaluation.every_epochs=1"]),
        ("megabatch launch digits cluster.backend.par", ["cluster.backend.partition="]),
        ("megabatch launch digits cluster.backend=ssh cluster.backend.par", []),
        ("megabatch launch digits nothing.like", []),
    ],
)
def test_the_words_that_fit_are_offered(place: Path, line: str, words: list[str]) -> None:
    found = offered(line)
    assert found[: len(words)] == words
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("megabatch", "launch", "digits", "engine", "=", "d"), ["ddp", "deepspeed"]),
        (("megabatch", "launch", "digits", "engine", "="), ["ddp", "fsdp", "accelerate", "deepspeed"]),
        (("megabatch", "plan", "digits", "optimizer", "=", "lars", "optimizer.tr"), ["optimizer.trust_coefficient="]),
        (("megabatch", "launch", "digits", "epochs", "=", "3", "see"), ["seed=", "seed=0"]),
    ],
)
def test_bash_is_offered_what_stands_behind_its_last_break(
    place: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    assert offered_by_bash(*words)[: len(expected)] == expected


def test_a_recipe_that_cannot_be_read_still_gets_keys(place: Path) -> None:
    (place / "mine.yaml").write_text("optimizer: [")
    assert "optimizer.base_learning_rate=" in offered("megabatch plan mine.yaml optimizer.")


def test_tab_imports_neither_the_schema_nor_numpy(place: Path) -> None:
    """What keeps it under 0.3 s; docs/shell.md has the seconds."""
    code = (
        "import sys; from megabatch.launcher.completion import complete_override, complete_run, complete_cluster\n"
        "assert complete_override(['mine.yaml'], 'optimizer.b') and complete_run('') and complete_cluster('')\n"
        "import megabatch.launcher.cli\n"
        "print(sorted({'pydantic', 'numpy', 'torch', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert done.stdout == "[]\n"


def test_the_installed_script_completes_in_a_real_bash(place: Path) -> None:
    folder = place / "bin"
    folder.mkdir()
    program = folder / "megabatch"
    code = 'import sys; from megabatch.launcher.cli import main; sys.argv[0] = "megabatch"; main()'
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    program.chmod(0o755)
    env = {
        **os.environ,
        "HOME": str(place),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "_MEGABATCH_COMPLETE": "source_bash",
    }
    script = subprocess.run([program], env=env, capture_output=True, text=True, check=True).stdout
    (place / "complete.sh").write_text(script)
    line = "COMP_WORDS=(megabatch launch digits engine = dd); COMP_CWORD=5; _megabatch_completion megabatch"
    done = subprocess.run(
        ["bash", "-c", f"source complete.sh; {line}; echo ${{COMPREPLY[*]}}"], env=env, capture_output=True, text=True,
        check=True, cwd=place,
    )  # fmt: skip
    assert done.stdout == "ddp\n", done.stderr
