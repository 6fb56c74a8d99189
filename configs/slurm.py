"""Backend `slurm`: what is asked of the scheduler. The script is launcher/backends/slurm.py's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from megabatch.configs.base import Choice, NonNegativeInt, PositiveInt

# No control characters, quotes, spaces or shell signs: a newline in a quoted #SBATCH line would run as a command.
SchedulerWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:=@%+/\-\[\]&|*]{1,256}$")]
# Quoted in the script's body, so anything but control characters; a dash in front would be an option of the program.
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\-][^\x00-\x1f\x7f]*$")]
Mount = Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f,]*$")]


class Pyxis(Choice):
    """NVIDIA's plugin for srun. `image` is what enroot reads: `nvcr.io#nvidia/pytorch:25.10-py3`, or a .sqsh file.

    The working folder and the run folder are mounted at the same place inside; `mounts` (FROM:TO) are the others, such
    as that of the data. `python` is the interpreter inside, which has megabatch.
    """

    name: Literal["pyxis"] = "pyxis"
    image: Text
    mounts: tuple[Mount, ...] = ()
    python: Text = "python3"


class Apptainer(Choice):
    """`apptainer exec IMAGE`, with `--nv` where the cluster has GPUs. The keys are those of `pyxis`."""

    name: Literal["apptainer"] = "apptainer"
    image: Text
    mounts: tuple[Mount, ...] = ()
    python: Text = "python3"


Container = Annotated[Pyxis | Apptainer, Field(discriminator="name")]


class Slurm(Choice):
    """A job for sbatch (docs/slurm.md); most keys are sbatch's own options.

    `save_seconds` before the time limit the ranks are asked to save; then, and after a preemption, the job goes back
    into the queue and on from there, as often as needed. After a failure it does too, unless `max_restarts` failures
    in a row came without a new checkpoint between them. Of nodes that are unfit, or on which ranks failed twice in a
    row, `max_excluded_nodes` are left out. With `task: node` srun starts one launcher on each node, with `task: rank`
    it starts the ranks themselves. `array_at_once` limits how many runs of `megabatch ablate` there are at a time.
    """

    name: Literal["slurm"] = "slurm"
    partition: SchedulerWord | None = None
    account: SchedulerWord | None = None
    qos: SchedulerWord | None = None
    constraint: SchedulerWord | None = None
    reservation: SchedulerWord | None = None
    exclude: SchedulerWord | None = None
    time_minutes: PositiveInt = 60
    save_seconds: PositiveInt = 120
    requeue: bool = True
    max_restarts: NonNegativeInt = 3
    max_excluded_nodes: NonNegativeInt = 0
    gpu_type: SchedulerWord | None = None
    cpus_per_task: PositiveInt | None = None
    memory_gigabytes: PositiveInt | None = None
    task: Literal["node", "rank"] = "node"
    array_at_once: PositiveInt | None = None
    modules: tuple[SchedulerWord, ...] = ()
    container: Container | None = None

    @model_validator(mode="after")
    def _time_to_save(self) -> Slurm:
        if self.save_seconds >= 60 * self.time_minutes:
            seen = f"save_seconds={self.save_seconds} are no less than the whole time limit, {self.time_minutes} min"
            raise ValueError(f"{seen}. Write less, for example {30 * self.time_minutes}")
        return self
