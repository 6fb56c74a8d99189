"""The pages written from the schema are as the schema is now, and the commands in the README exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app

ROOT = Path(__file__).parents[1]


def written_pages() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return {name: re.sub(r"\n{3,}", "\n\n", text) for name, text in pages.items()}


@pytest.mark.parametrize("name", ["recipe.md", "cluster.md", "refusals.md"])
def test_the_pages_of_keys_and_refusals_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == written_pages()[name], "run: python docs/make_tables.py"


COMMANDS = sorted({
    match.group(1).split()[0] + (" " + match.group(1).split()[1] if match.group(1).split()[0] in ("data", "config") else "")
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for block in re.findall(r"```\n(.*?)```", document.read_text(), re.DOTALL)
    for match in re.finditer(r"^megabatch ([a-z].*)$", block, re.MULTILINE)
})  # fmt: skip


@pytest.mark.parametrize(
    "path", [name for name, value in vars(RunDir).items() if isinstance(value, property) and name != "logs"]
)
def test_every_file_of_a_run_folder_is_in_its_page(path: str) -> None:
    page = (ROOT / "docs" / "run-folder.md").read_text()
    assert re.search(rf"`(\w+/)*{re.escape(getattr(RunDir(Path('run')), path).name)}[/`]", page)


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
