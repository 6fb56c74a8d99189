"""`megabatch study overfit`: what helps a network that learns few samples by heart, one thing at a time and together.

Each technique is a shipped recipe on top of the recipe `overfit`, trained with several seeds; a fusion is an ensemble
of networks of one recipe with other seeds. The folder is the whole state: RECIPE/seed-N are run folders like any other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import launch
from megabatch.launcher.command import child_environment
from megabatch.launcher.preflight import disk_space
from megabatch.launcher.prepare import inspect_models, prepare
from megabatch.launcher.pruning import require_no_plan
from megabatch.launcher.save_job import saved_job
from megabatch.launcher.study.process import StudyFailedError, require_local
from megabatch.launcher.study.runs import require_same, train
from megabatch.launcher.supervise import Ending, ExitCode
from megabatch.launcher.tracking import as_one_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Technique:
    """A row of the results: one network of a recipe, or with `fused` several of them, their predictions averaged."""

    label: str
    recipe: str
    fused: bool = False


TECHNIQUES = (
    Technique("baseline", "overfit"),
    Technique("augmentation", "overfit-augmentation"),
    Technique("L1 penalty", "overfit-l1"),
    Technique("L2 penalty", "overfit-l2"),
    Technique("dropout", "overfit-dropout"),
    Technique("early stopping", "overfit-early-stopping"),
    Technique("pruning", "overfit-pruning"),
    Technique("adaptive rate", "overfit-adaptive"),
    Technique("fusion", "overfit", fused=True),
    Technique("pruning + adaptive rate", "overfit-pruning-adaptive"),
    Technique("pruning + adaptive rate + fusion", "overfit-pruning-adaptive", fused=True),
    Technique("everything but fusion", "overfit-everything"),
    Technique("everything", "overfit-everything", fused=True),
)


@dataclass(frozen=True)
class Study:
    """What will be trained: one prepared job for each recipe, and how often."""

    folder: Path
    jobs: dict[str, Job]
    seeds: int
    members: int

    def run_dir(self, recipe: str, number: int) -> RunDir:
        """Return the folder of the run of a recipe with its own seed + number."""
        return RunDir(self.folder / recipe / f"seed-{self.jobs[recipe].recipe.seed + number}")

    def fused_dir(self, recipe: str, number: int) -> RunDir:
        """Return the folder of an ensemble."""
        return RunDir(self.folder / recipe / f"fusion-{number}")

    def members_of(self, number: int) -> range:
        """Return the runs in an ensemble: its own seed first, and no run in two ensembles."""
        return range(number, self.seeds * self.members, self.seeds)

    def runs(self) -> Iterator[tuple[str, int]]:
        """Return every training: recipe and number, all recipes of a seed before the next seed."""
        fused = {technique.recipe for technique in TECHNIQUES if technique.fused}
        for number in range(self.seeds * self.members):
            for recipe in self.jobs:
                if number < self.seeds or recipe in fused:
                    yield recipe, number

    def job(self, recipe: str, number: int) -> Job:
        """Return the job of a training."""
        job = self.jobs[recipe]
        own = job.recipe.model_copy(update={"seed": job.recipe.seed + number})
        named = job.model_copy(update={"recipe": own})
        return as_one_of(named, self.folder.name, "study", f"{recipe}/seed-{own.seed}", [recipe])


def plan(cluster: str, overrides: Sequence[str], seeds: int, members: int, folder: Path) -> Study:
    """Check every recipe with the overrides. Raises ConfigError with all that is wrong, before anything is written."""
    jobs: dict[str, Job] = {}
    problems: list[Problem] = []
    for technique in TECHNIQUES:
        if technique.recipe in jobs:
            continue
        try:
            jobs[technique.recipe] = prepare(technique.recipe, cluster, overrides).job
            require_no_plan(jobs[technique.recipe], "study overfit")
        except ConfigError as error:
            if technique is TECHNIQUES[0]:
                raise  # every other recipe would tell the same
            problems += [Problem(f"recipe {technique.recipe}", str(problem)) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    base = jobs[TECHNIQUES[0].recipe]
    require_local(base, "study overfit")
    if base.recipe.data.test_split is None:
        raise ConfigError([Problem("data.test_split", "the study compares by the test split: name one")])
    study = Study(folder.absolute(), jobs, seeds, members)
    for recipe, number in study.runs():
        require_same(study.job(recipe, number), study.run_dir(recipe, number), f"{recipe}, seed {number}", folder)
    return study


def inspect(study: Study) -> None:
    """Build the network of every recipe, and look for room. Raises ConfigError that names the recipe."""
    found = dict(zip(study.jobs, inspect_models(list(study.jobs.values())), strict=True))
    problems = [Problem(f"recipe {recipe}", text) for recipe, facts in found.items() for text in facts["problems"]]
    if not problems:
        kept = sum(study.jobs[recipe].recipe.kept_checkpoints for recipe, _ in study.runs())
        full = disk_space(study.folder, max(facts["checkpoint_bytes"] for facts in found.values()), kept)
        problems = [Problem("", message) for message in full]
    if problems:
        raise ConfigError(problems)


def train_all(study: Study, say: Say) -> Ending:
    """Train what is not finished, and evaluate each on its own training samples; end at the first that fails."""
    runs = list(study.runs())
    for count, (recipe, number) in enumerate(runs, start=1):
        run_dir = study.run_dir(recipe, number)
        if not launch.is_finished(run_dir):
            say(f"\n[{count} of {len(runs)}] {recipe}, seed {study.job(recipe, number).recipe.seed}")
            ending = train(study.job(recipe, number), run_dir)
            if ending.code != ExitCode.DONE:
                return ending
        if number < study.seeds:
            ending = evaluate_on_train(study.job(recipe, number), run_dir, say)
            if ending.code != ExitCode.DONE:
                return ending
    return Ending(ExitCode.DONE, "")


def fuse_all(study: Study, say: Say) -> Ending:
    """Combine the networks of the recipes that are fused, where that is not done yet."""
    from megabatch.launcher.study.ensemble import Settings, combine

    for technique in TECHNIQUES:
        for number in range(study.seeds) if technique.fused else ():
            fused = study.fused_dir(technique.recipe, number)
            if not launch.is_finished(fused):
                say(f"\n{technique.label}: networks {', '.join(str(n) for n in study.members_of(number))}")
                members = [str(study.run_dir(technique.recipe, n).root) for n in study.members_of(number)]
                combine(members, fused.root, Settings())
            ending = evaluate_on_train(saved_job(fused), fused, say)
            if ending.code != ExitCode.DONE:
                return ending
    return Ending(ExitCode.DONE, "")


def evaluate_on_train(job: Job, run_dir: RunDir, say: Say) -> Ending:
    """Have the ranks evaluate the network on the samples it was trained on, as `megabatch eval --split train` does."""
    if train_result(job, run_dir).exists():
        return Ending(ExitCode.DONE, "")
    arguments = ["--evaluate", job.recipe.data.train_split, "--checkpoint", "best", "--weights", "averaged"]
    return launch.start(job, run_dir, say, arguments)


def train_result(job: Job, run_dir: RunDir) -> Path:
    """Return the file of that evaluation."""
    return run_dir.evaluation(job.recipe.data.train_split, "best")


def sizes(study: Study) -> list[dict[str, Any]]:
    """Return parameters, operations and times of a network of each technique. Raises StudyFailedError."""
    folders = [
        str((study.fused_dir if technique.fused else study.run_dir)(technique.recipe, 0).root)
        for technique in TECHNIQUES
    ]
    command = [sys.executable, "-m", "megabatch.trainer.sizes", *folders]
    environment = child_environment(next(iter(study.jobs.values())))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise StudyFailedError(Ending(ExitCode.FAILED, f"the networks could not be measured:\n{done.stderr.strip()}"))
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found
