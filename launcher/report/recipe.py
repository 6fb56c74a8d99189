"""What was asked for: the plan, the recipe and what it changes in its base, and the commands that do it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from megabatch.launcher.from_here import from_here
from megabatch.launcher.report import words
from megabatch.launcher.report.run import Run
from megabatch.launcher.report.table import Table


def plan_of(run: Run) -> list[tuple[str, str]]:
    """Return the rows of the plan as they were printed at the last start that told them."""
    plans = [line["plan"] for line in run.launches if line.get("plan")]
    return [(words.plain(name), words.plain(text)) for name, text in plans[-1]] if plans else []


def differences_of(run: Run) -> tuple[str, Table] | None:
    """Return the base of the recipe, and the keys in which the run differs from it; None where it is not known."""
    launch = next((line for line in run.launches if line.get("base")), None)
    if launch is None:
        return None
    rows = tuple(
        (words.plain(one.get("key")), words.setting(one.get("before")) if "before" in one else "not written",
         words.setting(one.get("now")) if "now" in one else "left out", words.plain(one.get("from") or ""))
        for one in launch.get("differences") or ()
    )  # fmt: skip
    return words.plain(launch["base"]), Table(("Key", "Base", "This run", "Written in"), rows, texts=4)


def recipe_text(run: Run) -> str:
    """Return the whole recipe as YAML, without what URLs may hold."""
    from megabatch.launcher.render import yaml_text

    return yaml_text(words.without_secrets(run.recipe))


def commands_of(run: Run) -> list[tuple[str, str]]:
    """Return how to do it again: what each block of commands does, and the block."""
    folder = from_here(run.run_dir.root)
    found = [("The commands that were given", _given(run.launches))] if run.launches else []
    place = shlex.quote(folder)
    by_hand = (
        f"mkdir again && cp {place}/job.yaml again/\n"
        + (f"cp {place}/pruning-plan.json again/\n" if run.run_dir.pruning_plan.exists() else "")
        + "python -m megabatch.trainer.node again/job.yaml"
    )
    found.append(("The same job once more, from the file that the ranks read", by_hand))
    if not run.is_running:
        evaluate = f"megabatch eval {place} --split validation --checkpoint best"
        found.append(("Its checkpoints", f"{evaluate}\nmegabatch launch --resume {place}"))
    return found


def _given(launches: Sequence[dict[str, Any]]) -> str:
    lines, folder = [], None
    for launch in launches:
        if launch.get("folder") and launch["folder"] != folder:
            folder = str(launch["folder"])
            lines.append(f"cd {shlex.quote(folder)}")
        if (checkout := _checkout(launch.get("git") or {})) and checkout not in lines:
            lines.append(checkout)
        if launch.get("command"):
            lines.append(shlex.join(map(str, launch["command"])))
    return words.plain_block("\n".join(lines))


def _checkout(git: dict[str, Any]) -> str:
    if not git.get("commit"):
        return ""
    changed = git.get("changed")
    return f"git checkout {git['commit']}" + (
        f"  # files that were not as they are there: {changed}" if changed else ""
    )
