"""The pages written from the schema are as the schema is now, and the commands in the README exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from megabatch.launcher.cli import app

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """A script of docs as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written_pages() -> dict[str, str]:
    pages: dict[str, str] = script("make_tables").pages()
    return {name: re.sub(r"\n{3,}", "\n\n", text) for name, text in pages.items()}


@pytest.mark.parametrize("name", ["recipe.md", "cluster.md", "refusals.md"])
def test_the_pages_of_keys_and_refusals_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == written_pages()[name], "run: python docs/make_tables.py"


@pytest.mark.parametrize("name", ["docs/commands.md", "configs/keys.json"])
def test_the_page_of_commands_and_the_keys_to_complete_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == script("make_commands").files()[name], "run: python docs/make_commands.py"


COMMANDS = sorted({
    match.group(1).split()[0] + (" " + match.group(1).split()[1] if match.group(1).split()[0] in ("data", "config") else "")
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for block in re.findall(r"```\n(.*?)```", document.read_text(), re.DOTALL)
    for match in re.finditer(r"^megabatch ([a-z].*)$", block, re.MULTILINE)
})  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_documents_exists(command: str) -> None:
    assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    from megabatch.configs.load import load

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(blocks[0])
    (tmp_path / "cluster.yaml").write_text(blocks[1])
    loaded = load(str(tmp_path / "recipe.yaml"), str(tmp_path / "cluster.yaml"))
    assert (loaded.recipe.name, loaded.cluster.num_ranks) == ("mine", 32)
