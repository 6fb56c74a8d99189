"""`megabatch launch` of a recipe with stages: trains one after the other, measures after each, goes on where it ended.

RUN_DIR/job.yaml has the whole; each stage is an ordinary run in RUN_DIR/stages/N. What is done is what is there: a
stage is trained when its result says so, and measured when stage.json is there. So a launch that was killed anywhere
goes on with `--resume`, and comes to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.new_file import write_whole
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError, take
from megabatch.launcher import launch, render
from megabatch.launcher.from_here import from_here
from megabatch.launcher.json_output import answer
from megabatch.launcher.known_speed import known_speed
from megabatch.launcher.preflight import room_to_go_on
from megabatch.launcher.prepare import Prepared, check
from megabatch.launcher.run_commands import run_job, show, start_job
from megabatch.launcher.save_job import RUNS_FOLDER, new_run_dir, saved_job, write_job
from megabatch.launcher.stages import previews, settings_of, stage_data, stage_recipe
from megabatch.launcher.study import continual as report
from megabatch.launcher.study.process import write_request
from megabatch.launcher.supervise import ExitCode
from megabatch.launcher.tracking import as_one_of


def start(job: Job, chosen: Path | None) -> int:
    """Check all stages, make the run folder and train; return the exit code. Raises ConfigError."""
    checked = previews(job)
    launch.render(checked[0].job, RunDir((chosen or RUNS_FOLDER / "run").absolute()))  # refuses before anything is made
    return _train_stages(_of_data(job, checked), new_run_dir(_of_data(job, checked), chosen))


def resume(run_dir: RunDir, cluster: str | None, overrides: Sequence[str], dry: bool) -> int:
    """Go on at the first stage that is not done, perhaps on another cluster; return the exit code."""
    job = saved_job(run_dir)
    changed = launch.changed_job(job, cluster, overrides)
    checked = previews(changed)
    launch.require_same_data(run_dir, job, checked[-1].job)
    if dry:
        return _show(checked, run_dir)
    return _train_stages(changed, run_dir)


def dry_run(job: Job, write: Path | None) -> int:
    """Show the plan of each stage, and the command that starts one."""
    if write is not None:
        problem = "a recipe with stages is no single job: each of them begins with the network of the one before"
        raise ConfigError([Problem("--write", f"{problem}. Leave it out, and start it with megabatch launch")])
    return _show(previews(job), RunDir(Path("RUN_DIR")))


def _of_data(job: Job, checked: Sequence[Prepared]) -> Job:
    """Return the job with the fingerprint of the data of its last stage, which has those of all."""
    last = checked[-1].job
    return job.model_copy(update={"data_fingerprint": last.data_fingerprint, "data_contents": last.data_contents})


def _show(checked: Sequence[Prepared], run_dir: RunDir) -> int:
    for prepared in checked[:-1]:
        render.print_plan(prepared.job, prepared.plan, None, known_speed(prepared.job, RUNS_FOLDER))
    show(checked[-1], run_dir.stage(len(checked)))
    return ExitCode.DONE


def _train_stages(job: Job, run_dir: RunDir) -> int:
    """Train and measure what is not done yet, with the run folder locked; then tell what is known of all stages."""
    try:
        lock = take(run_dir.lock)
    except RunFolderError as error:
        raise ConfigError([Problem("", str(error))]) from None
    with closing(lock):
        write_job(job, run_dir.job)  # on another cluster from here on
        number = len(settings_of(job).stages)
        for stage in range(1, number + 1):
            told_before = run_dir.stage(stage).stage_result.exists()
            code = _train(job, run_dir, stage) or _measure(job, run_dir, stage)
            if code != ExitCode.DONE:
                return code
            report.write(report.known(run_dir, stage), run_dir)
            if stage < number and not told_before:
                report.show(report.known(run_dir, stage))
        report.show(report.known(run_dir, number))
        answer(run=str(run_dir.root), stages=launch.read_result(run_dir.continual))
        typer.echo(f"page: {report.page_of(run_dir)}")
    return ExitCode.DONE


def _train(job: Job, run_dir: RunDir, number: int) -> int:
    """Start a stage, or go on with it; nothing if it is done."""
    stage = run_dir.stage(number)
    if launch.is_finished(stage):
        return ExitCode.DONE
    typer.echo(f"\nstage {number} of {len(settings_of(job).stages)}")
    if stage.job.exists():
        begun = _here(saved_job(stage), job)
        prepared = check(begun)
        launch.require_same_data(stage, begun, prepared.job)
        if full := room_to_go_on(stage):
            raise ConfigError(Problem("", message) for message in full)
        return run_job(prepared.job, stage, whole=run_dir)
    if stage.root.exists():  # killed before there was anything in it
        shutil.rmtree(stage.root)
    before = run_dir.stage(number - 1) if number > 1 else None
    recipe = stage_recipe(job, stage_data(job), number, before)
    fresh = job.model_copy(update={"recipe": recipe, "data_fingerprint": "", "data_contents": {}})
    name = run_dir.root.name
    return start_job(check(as_one_of(fresh, name, "stage", f"{name}-stage-{number}")), stage.root, run_dir)


def _here(stage: Job, job: Job) -> Job:
    """Return the job of a stage on the cluster, and with the engine, of the whole."""
    recipe = stage.recipe.model_copy(update={"engine": job.recipe.engine})
    return stage.model_copy(update={"recipe": recipe, "cluster": job.cluster})


def _measure(job: Job, run_dir: RunDir, number: int) -> int:
    """Have the ranks measure what a stage has learned, forgotten and come to need; nothing if that is done."""
    stage, settings = run_dir.stage(number), settings_of(job)
    if stage.stage_result.exists():
        return ExitCode.DONE
    last = number == len(settings.stages)
    samples = settings.ewc.samples if settings.ewc is not None and not last else None
    request = write_request(stage, "stage", {"fisher_samples": samples})
    stage.study_result.unlink(missing_ok=True)
    ending = launch.start(_here(saved_job(stage), job), stage, typer.echo, ["--study", str(request)])
    if ending.code != ExitCode.DONE:
        typer.echo(f"stage {number} is trained, and was not measured: {ending.message or 'stopped'}", err=True)
        typer.echo(f"go on with: megabatch launch --resume {from_here(run_dir.root)}", err=True)
        return ending.code
    found = launch.read_result(stage.study_result)
    if samples is not None:
        found["ewc_sha256"] = hashlib.sha256(stage.ewc.read_bytes()).hexdigest()
    write_whole(stage.stage_result, json.dumps(found, indent=1))
    for done in (request, stage.study_result):
        done.unlink()
    return ExitCode.DONE
