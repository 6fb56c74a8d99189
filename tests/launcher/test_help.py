"""What a newcomer reads: every command has its place, an example, --json where it prints a table; colours on demand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from megabatch.launcher import json_output
from megabatch.launcher.cli import app
from megabatch.launcher.commands import walk
from megabatch.launcher.help_text import SECTIONS
from megabatch.launcher.supervise import ExitCode
from support.runs import Workplace

COMMANDS = {name: (command, context) for name, command, context in walk()}
ROOT = Path(__file__).parents[2]
PRINTS_NO_TABLE = {
    "logs": "log files as they are",
    "cancel": "one line",
    "sync": "what another program says",
    "new": "what to do next",
    "runs remove": "one line for each run, before it asks",
    "data example": "what to do next",
    "data inspect": "writes a page",
    "cluster import": "prints YAML",
    "config schema": "prints JSON already",
    "config from-timm": "prints YAML",
    "report": "writes a page",
}


def megabatch(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


def test_every_command_stands_in_one_section_of_the_help() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert len(listed) == len(set(listed))
    shown = re.findall(r"^  (\S+) +\S", megabatch("--help").stdout, re.MULTILINE)
    for name in {name.split()[0] for name in COMMANDS}:
        assert name in listed
        assert shown.count(name) == 1, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_its_help_with_an_example_of_itself(name: str) -> None:
    command, context = COMMANDS[name]
    text = command.get_help(context)
    assert re.search(rf"\n  Examples?:\s+megabatch {name}( |\n|$)", text), text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_prints_a_table_has_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name][0].params for option in parameter.opts}
    assert ("--json" in options) == (name not in PRINTS_NO_TABLE)


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace.folder)
    (workplace.folder / "runs").mkdir(exist_ok=True)
    return workplace.folder


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["plan", "recipe.yaml"], ["global_batch", "total_steps"]),
        (["launch", "recipe.yaml", "--dry-run"], ["plan", "command", "environment"]),
        (["data", "info", "data"], ["splits", "classes"]),
        (["data", "index", "data"], ["splits", "folder"]),
        (["data", "verify", "data"], ["problems"]),
        (["data", "stats", "data"], ["format", "test"]),
        (["data", "repack", "data", "smaller", "--max-size", "16"], ["bytes_before", "bytes_after"]),
        (["data", "clean", "data", "--out", "cleaned"], ["counts", "report", "mask"]),
        (["config", "show", "recipe.yaml"], ["recipe", "cluster"]),
        (["config", "show", "recipe.yaml", "--origin"], ["recipe", "cluster", "origins"]),
        (["config", "list"], ["recipes", "clusters"]),
        (["check"], ["megabatch"]),
    ],
    ids=str,
)
def test_json_is_all_that_is_on_standard_output(place: Path, arguments: list[str], keys: list[str]) -> None:
    result = megabatch(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout).keys() >= set(keys)


def test_json_of_no_runs_is_an_empty_list(place: Path) -> None:
    assert json.loads(megabatch("runs", "--json").stdout) == []


def test_with_json_children_print_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with json_output.json_alone(True):
        subprocess.run([sys.executable, "-c", "print('of a rank')"], check=True)
        print("of this process")
        json_output.answer(run="a")
        json_output.answer(exit_code=0)
    out, err = capfd.readouterr()
    assert json.loads(out) == {"run": "a", "exit_code": 0}
    assert "of a rank" in err
    assert "of this process" in err


def test_a_mistake_leaves_standard_output_empty(place: Path) -> None:
    result = megabatch("launch", "recipe.yaml", "epochs=0", "--dry-run", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "epochs: 0" in result.stderr


def test_the_exit_codes_are_in_the_help_and_in_the_documents() -> None:
    told = " ".join(megabatch("--help").stdout.split())
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    for code, word in ((0, "done"), (1, "failed"), (2, "mistake"), (3, "stopped"), (130, "interrupted")):
        assert re.search(rf"\b{code} (a )?{word}", told)
        assert f"| {code} |" in page
    assert {int(code) for code in ExitCode} <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("variables", "styled"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
    ],
    ids=str,
)
def test_a_table_has_styles_where_they_are_wanted(
    place: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], styled: bool
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    result = CliRunner().invoke(app, ["plan", "recipe.yaml"], env=variables, color=True)
    assert result.exit_code == 0
    assert ("\x1b[" in result.stdout) == styled, result.stdout
