"""The pages written from the schema are as the schema is now, every command in the documents could be typed, and the site builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load, shipped
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from support.documents import PAGES, Command, commands, keys_in_text

ROOT = Path(__file__).parents[1]
COMMAND_LINE = typer.main.get_command(app)


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


@pytest.mark.parametrize("name", ["recipe.md", "cluster.md", "refusals.md", "from-timm.md"])
def test_the_pages_of_keys_and_refusals_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == written_pages()[name], "run: python docs/make_tables.py"


@pytest.mark.parametrize("name", ["docs/commands.md", "configs/keys.json"])
def test_the_page_of_commands_and_the_keys_to_complete_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == script("make_commands").files()[name], "run: python docs/make_commands.py"


def parameters(command: Command) -> dict[str, Any]:
    """Return what the command line makes of a command, without running it. Raises a usage error.

    The options of `megabatch` itself are looked up and not parsed: one of them would write into the user's shell.
    """
    known: Any = COMMAND_LINE
    context = known.context_class(known, info_name="megabatch")
    rest = list(command.words)
    if rest and rest[0].startswith("--") and any(rest[0] in option.opts for option in known.params):
        return {}
    while hasattr(known, "resolve_command") and rest:
        name, known, words = known.resolve_command(context, rest)
        context = known.make_context(name, words, parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
    parsed: dict[str, Any] = context.params
    return parsed


def unusable(command: Command, readme: Path) -> str | None:
    """Return why a command that a document shows could not be typed: an option, a recipe or a key that is not there."""
    if command.words[0].startswith("--"):  # of megabatch itself: they act at once
        known = {"--help", *(option for parameter in COMMAND_LINE.params for option in parameter.opts)}
        return None if command.words[0] in known else f"No such option {command.words[0]}"
    try:
        found = parameters(command)
    except Exception as error:  # typer has click inside it, under a name of its own
        told = error.format_message() if hasattr(error, "format_message") else repr(error)
        return None if command.in_text and "No such" not in told else told
    arguments = found.get("arguments") or []
    together = [[word for word in arguments if "=" in word and "..." not in word]]
    for vary in found.get("vary") or []:
        key, _, values = vary.partition("=")
        together += [[f"{key}={value}"] for value in re.split(r"\|(?![^{]*})", values)]
    named = [word for word in arguments if "=" not in word]
    recipe = named[0] if named and named[0] in shipped("recipes") else str(readme)
    if named and recipe == str(readme) and not re.search(r"[A-Z\[]|\.ya?ml$", named[0]):
        return f"no recipe {named[0]!r} is shipped"
    return "; ".join(problem for overrides in together for problem in problems_of(recipe, overrides)) or None


def problems_of(recipe: str, overrides: list[str]) -> list[str]:
    try:
        load(recipe, "laptop", overrides)
    except ConfigError as error:
        return [problem.message for problem in error.problems]
    return []


def test_every_command_in_the_documents_has_options_recipes_and_keys_that_exist(tmp_path: Path) -> None:
    readme = tmp_path / "recipe.yaml"
    readme.write_text(re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 200
    assert [f"{command}: {why}" for command in found if (why := unusable(command, readme))] == []


def test_every_key_in_the_text_of_the_documents_exists(tmp_path: Path) -> None:
    """Only unknown names count: what stands in a sentence is seldom a whole section."""
    readme = tmp_path / "recipe.yaml"
    readme.write_text(re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])
    found = [
        (place, override)
        for page in PAGES for place, override in keys_in_text(page)
        if override.split(".")[0].split("=")[0] in Recipe.model_fields and not override.startswith("name=")
    ]  # fmt: skip
    assert len(found) > 100
    wrong = [(place, why) for place, override in found for why in problems_of(str(readme), [override])]
    assert [(place, why) for place, why in wrong if "unknown key" in why or "is not known" in why] == []


@pytest.mark.parametrize(
    "words",
    [
        ("launch", "digits", "--dryrun"), ("lunch", "digits"), ("eval", "latest", "--split"), ("launch", "digit"),
        ("launch", "digits", "epoch=3"), ("launch", "mine.yaml", "batch.global=8"), ("plan",),
        ("ablate", "digits", "--vary", "regularization.smoothing=0|0.1"), ("launch", "digits", "cluster.node=2"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_command_of_the_documents_would_be_seen(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base: digits\n")
    assert unusable(Command("here", words, in_text=False), tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "path", [name for name, value in vars(RunDir).items() if isinstance(value, property) and name != "logs"]
)
def test_every_file_of_a_run_folder_is_in_its_page(path: str) -> None:
    page = (ROOT / "docs" / "run-folder.md").read_text()
    assert re.search(rf"`(\w+/)*{re.escape(getattr(RunDir(Path('run')), path).name)}[/`]", page)


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(blocks[0])
    (tmp_path / "cluster.yaml").write_text(blocks[1])
    loaded = load(str(tmp_path / "recipe.yaml"), str(tmp_path / "cluster.yaml"))
    assert (loaded.recipe.name, loaded.cluster.num_ranks) == ("mine", 32)


def built(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout. Without --quiet, under which mkdocs counts no warnings, and none is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)


def test_the_site_builds_without_a_broken_link_and_fetches_nothing(tmp_path: Path) -> None:
    done = built(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    fetched = [
        tag for page in pages for tag in re.findall(r"<(?:script|link|img)[^>]*https?://[^>]*>", page.read_text())
    ]
    assert fetched == []


def test_the_site_does_not_build_with_a_broken_link_or_a_page_outside_the_navigation(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for file in (ROOT / "mkdocs.yml", *ROOT.glob("*.md")):
        shutil.copy(file, tmp_path)
    (tmp_path / "docs" / "stray.md").write_text("[a](nothere.md) [b](order.md#nothere) [c](../launcher/nothere.py)")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for told in ("'nothere.md'", "'#nothere'", "'../launcher/nothere.py'", "- stray.md"):
        assert told in done.stderr
