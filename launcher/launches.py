"""RUN_DIR/launches.jsonl: how a run was started and gone on with. For the report; the ranks do not read it.

A line has the command, the state of git, the plan, and what the recipe changes in its base; another one what the
launcher said when ranks ended badly, for a rank that was killed can say nothing. No secret is in it: values of
cluster.environment are left out, and of URLs what may be a password or a signature.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.load import Loaded, find_file, layered_tree
from megabatch.configs.run_dir import RunDir
from megabatch.configs.yaml_tree import Tree, read_tree
from megabatch.data.sources.places import visible
from megabatch.launcher.plan import Plan
from megabatch.launcher.render import leaves, plan_rows

_GIT_SECONDS = 3.0
_RECIPES = "recipes"


@dataclass(frozen=True)
class Asked:
    """What the user wrote: the command, the recipe's base, and what differs from that."""

    command: tuple[str, ...]
    base: str | None = None
    differences: tuple[dict[str, Any], ...] = ()  # Any: values of a recipe


def asked_to_start(recipe: str, cluster: str, overrides: Sequence[str], chosen: Path | None, loaded: Loaded) -> Asked:
    """Return what `megabatch launch RECIPE` was asked for."""
    folder = ("--run-dir", str(chosen)) if chosen is not None else ()
    command = ("megabatch", "launch", recipe, *map(_shown_override, overrides), "--cluster", cluster, *folder)
    base, before = _base_of(recipe)
    return Asked(command, base, tuple(_differences(before, loaded.recipe_tree)))


def asked_to_resume(which: str, cluster: str | None, overrides: Sequence[str]) -> Asked:
    """Return what `megabatch launch --resume` was asked for."""
    elsewhere = ("--cluster", cluster) if cluster is not None else ()
    return Asked(("megabatch", "launch", "--resume", which, *map(_shown_override, overrides), *elsewhere))


def record(run_dir: RunDir, job: Job, plan: Plan, model: dict[str, Any] | None, asked: Asked | None) -> None:
    """Append a line. A folder that takes none is told of when the run starts, not here."""
    line: dict[str, Any] = {
        "kind": "launch", "time": round(time.time(), 3), "folder": job.working_folder,
        "git": git_state(Path(job.working_folder)), "plan": plan_rows(job, plan, model),
        "total_steps": plan.total_steps,
    }  # fmt: skip
    if asked is not None:
        line |= {"command": asked.command, "base": asked.base, "differences": asked.differences}
    _append(run_dir, line)


def record_ending(run_dir: RunDir, message: str) -> None:
    """Append why the ranks ended, as the launcher tells it."""
    cause = message.partition("\nlogs: ")[0]
    _append(run_dir, {"kind": "ended", "time": round(time.time(), 3), "cause": cause})


def _append(run_dir: RunDir, line: dict[str, Any]) -> None:
    with suppress(OSError), run_dir.launches.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(line)}\n")


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit, branch and the number of files that differ from it; None where there is no git or no answer."""
    command = ["git", "--no-optional-locks", "-C", str(folder), "-c", "core.fsmonitor=false", "status"]
    try:
        done = subprocess.run(
            [*command, "--porcelain=v2", "--branch"], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    lines = done.stdout.splitlines()
    head = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("# ") and line.count(" ") >= 2)
    changed = sum(not line.startswith("# ") for line in lines)
    return {"commit": head.get("branch.oid"), "branch": head.get("branch.head"), "changed": changed}


def _base_of(recipe: str) -> tuple[str, Tree]:
    """Return the name and the values of the recipe's `base`, or of the recipe itself where it has none."""
    file = find_file(recipe, _RECIPES)
    base = read_tree(file, str(file)).values.get("base")
    if base is None:
        return recipe, layered_tree(recipe, _RECIPES)
    return str(base), layered_tree(str(find_file(str(base), _RECIPES, nearby=file.parent)), _RECIPES)


def _differences(before: Tree, now: Tree) -> list[dict[str, Any]]:
    """Return the keys that are written differently, with both values and where the new one stands."""
    old, new = dict(leaves(before.values)), dict(leaves(now.values))
    found = []
    for path in dict.fromkeys((*old, *new)):
        if path in old and path in new and old[path] == new[path]:
            continue
        origin = now.origin(path).partition(",")[0] if path in new else ""  # behind the comma is what was written
        one: dict[str, Any] = {"key": ".".join(map(str, path)), "from": origin}
        one |= {"before": _shown(old[path])} if path in old else {}
        found.append(one | ({"now": _shown(new[path])} if path in new else {}))
    return found


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value


def _shown_override(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}=(not shown)" if key.startswith("cluster.environment") else f"{key}={visible(value)}"
