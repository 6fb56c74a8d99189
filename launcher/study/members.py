"""Which checkpoints become members of an ensemble, and whether they go together. Without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megabatch.configs.best_checkpoint import best_checkpoint
from megabatch.configs.differences import first_difference
from megabatch.configs.distillation import TeacherNetwork, form_of
from megabatch.configs.ensemble import Member
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.json_files import read_json
from megabatch.configs.normalization import Fixed, Normalization
from megabatch.configs.pruning import plan_hash
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.configs.targets import NumbersTarget
from megabatch.data.arrangement import arrange
from megabatch.data.steps import steps_of
from megabatch.launcher.from_here import from_here
from megabatch.launcher.save_job import find_run, saved_job


@dataclass(frozen=True)
class Found:
    """A checkpoint that is to be a member, with the job of its run."""

    run_dir: RunDir
    job: Job
    folder: Path

    @property
    def shown(self) -> str:
        """Return what messages and tables call it."""
        return f"{from_here(self.run_dir.root)}, {self.folder.name}"


def members_of(name: str, which: str, snapshots: bool) -> list[Found]:
    """Return the checkpoints that a run folder, or a folder of a checkpoint, stands for. Raises ConfigError.

    `which` is best, last or a step; with `snapshots` they are all that were kept for good.
    """
    path = Path(name).absolute()
    if (path / "manifest.json").is_file() and RunDir(path.parents[1]).job.is_file():
        run_dir = RunDir(path.parents[1])
        return [Found(run_dir, saved_job(run_dir), path)]
    run_dir = find_run(name, None)
    job = saved_job(run_dir)
    there = sorted(file.parent for file in run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*/manifest.json"))
    if not there:
        raise ConfigError([Problem(name, "has no checkpoint yet: train it first (megabatch launch)")])
    if snapshots:
        return [Found(run_dir, job, folder) for folder in _snapshots(name, job, there)]
    return [Found(run_dir, job, _checkpoint(name, run_dir, there, which))]


def _checkpoint(name: str, run_dir: RunDir, there: Sequence[Path], which: str) -> Path:
    if which == "last":
        return there[-1]
    if which == "best":
        try:
            return best_checkpoint(run_dir, there[-1])
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ConfigError([Problem(name, f"{there[-1]} is damaged ({error}): name another checkpoint")]) from None
    if which.isdigit() and run_dir.checkpoint(int(which)) in there:
        return run_dir.checkpoint(int(which))
    steps = ", ".join(folder.name for folder in there)
    raise ConfigError([Problem(name, f"has no checkpoint {which!r}: write best, last, or the step of one of {steps}")])


def _snapshots(name: str, job: Job, there: Sequence[Path]) -> list[Path]:
    """Return the checkpoints that are kept for good: those at the ends of cycles, or every so many epochs."""
    steps = steps_of(job.recipe, arrange(job).order().samples)
    epochs = {folder: steps.progress(int(folder.name.removeprefix(CHECKPOINT_PREFIX)))[1] for folder in there}
    found = [folder for folder, epoch in epochs.items() if epoch and job.recipe.kept_for_good(epoch)]
    if len(found) < 2:
        raise ConfigError(
            [
                Problem(
                    name,
                    f"has {len(found)} checkpoints kept for good, and snapshots are these: train with schedule: "
                    "{name: cosine_restarts, cycles: 5}, or with checkpoint.keep_every_epochs",
                )
            ]
        )
    return found


def require_together(members: Sequence[Found]) -> None:
    """Raise ConfigError if there are not several networks, or with everything in which they do not fit the first."""
    _require_several(members)
    problems = [problem for member in members for problem in _of_few_bits(member)]
    problems += [problem for other in members[1:] for problem in _misfits(members[0], other)]
    if problems:
        raise ConfigError(problems)


def _require_several(members: Sequence[Found]) -> None:
    folders = [member.folder.resolve() for member in members]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise ConfigError([Problem(members[number].shown, "is named twice: members are different networks")])
    if len(members) < 2:
        raise ConfigError([Problem("", "one network is no ensemble: name two or more run folders, or --snapshots")])


def _of_few_bits(member: Found) -> Iterator[Problem]:
    """Yield why a network whose weights are rounded in every pass is no member."""
    quantization = member.job.recipe.quantization
    if quantization is not None:
        seen = f"was trained with quantization {quantization.name}, and members compute in full precision"
        yield Problem(member.shown, f"{seen}: name the run it began with")


def _misfits(first: Found, other: Found) -> Iterator[Problem]:
    """Yield why a network does not go together with the first."""
    its, own = other.job.recipe, first.job.recipe
    where = f"{other.shown} and {first.shown}"
    if its.data.image_size != own.data.image_size:
        sizes = f"images of {its.data.image_size} and of {own.data.image_size} pixels"
        yield Problem(where, f"were trained on {sizes}: members see the same images. Train one with the other's size")
    if its.data.target.name != own.data.target.name or (
        isinstance(own.data.target, NumbersTarget) and its.data.target != own.data.target
    ):
        yield Problem(where, f"have the targets {its.data.target!r} and {own.data.target!r}: outputs mean other things")
    elif form_of(its.data.target, its.loss) != form_of(own.data.target, own.loss):
        seen = f"were trained with the losses {its.loss.name} and {own.loss.name}, which read outputs in other ways"
        yield Problem(where, f"{seen}: name runs whose losses agree in it")
    if not isinstance(own.data.target, NumbersTarget):
        yield from _other_classes(where, other.run_dir, first.run_dir)
    scaled, scaled_first = its.data.normalize, own.data.normalize
    if scaled != scaled_first and not (isinstance(scaled, Fixed) and isinstance(scaled_first, Fixed)):
        seen = f"scale pixels by {scaled!r} and {scaled_first!r}"
        yield Problem(where, f"{seen}: one cannot be had from the other, as they go by each image")


def _other_classes(where: str, other: RunDir, first: RunDir) -> Iterator[Problem]:
    there, here = (list(read_json(run.outputs).get("names", ())) for run in (other, first))
    for run, names in ((other, there), (first, here)):
        if not names:
            problem = "is missing, which names the classes: `megabatch eval` of the run writes it"
            yield Problem(str(run.outputs), problem)
            return
    if there != here:
        number, its, own = first_difference(there, here)
        yield Problem(
            where,
            f"have other classes: output {number} is {its} in the one and {own} in the other ({len(there):,} and "
            f"{len(here):,} classes). Members need the same classes in the same order",
        )


def as_member(found: Found, scaling: Normalization) -> Member:
    """Return what builds the network, for pixels that come in scaled by `scaling`.

    Raises ConfigError if the plan of removed channels is another one now.
    """
    recipe, plan = found.job.recipe, None
    expected = plan_hash(recipe.pruning)
    if expected is not None:
        file = found.run_dir.pruning_plan
        plan = file.read_text(encoding="utf-8")
        if hashlib.sha256(plan.encode()).hexdigest() != expected:
            raise ConfigError([Problem(str(file), "changed since the job was written: put the old file back")])
    its = recipe.data.normalize
    return Member(
        **dict(TeacherNetwork.of(recipe.model.without_weights())),
        normalize=its if isinstance(its, Fixed) and its != scaling else None,
        pruning_plan=plan,
    )
