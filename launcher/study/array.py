"""The runs of an ablation as one Slurm job array: a task for each, that goes on by itself like any job of Slurm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megabatch.configs.run_dir import RunDir
from megabatch.launcher import slurm_queue
from megabatch.launcher.backends.slurm import prepare_folder
from megabatch.launcher.save_job import write_job
from megabatch.launcher.slurm_script import script
from megabatch.launcher.study.ablation import Run
from megabatch.launcher.supervise import Ending, ExitCode


def submit_array(folder: Path, runs: Sequence[Run], say: Callable[[str], None]) -> Ending:
    """Write every run folder and submit the runs; return at once. Raises ConfigError if one is queued already."""
    for run in runs:
        slurm_queue.require_none_queued(run.run_dir)
    place = RunDir(folder)
    text = script(runs[0].job, place, array_tasks=len(runs))
    place.logs.mkdir(parents=True, exist_ok=True)
    for run in runs:
        run.run_dir.root.mkdir(parents=True, exist_ok=True)
        write_job(run.job, run.run_dir.job)
        prepare_folder(run.job, run.run_dir)
    slurm_queue.write_private(place.submission, text)
    try:
        jobs = [str(run.run_dir.job) for run in runs]
        number = slurm_queue.submit(["sbatch", "--parsable", str(place.submission), *jobs])
    except slurm_queue.SlurmError as error:
        return Ending(ExitCode.FAILED, f"sbatch refused {place.submission}: {error}")
    for task, run in enumerate(runs):
        slurm_queue.remember(run.run_dir, f"{number}_{task}")
    say(f"submitted as Slurm job {number}, an array of {len(runs)} runs: `squeue -j {number}` shows it")
    say(f"their output is in {place.logs}. The same command again reports, and submits those that failed")
    return Ending(ExitCode.DONE, "")
