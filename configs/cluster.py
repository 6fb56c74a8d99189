"""The cluster file: where a run happens. Nothing in it may change what is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from megabatch.configs.base import Choice, EnvironmentText, Frozen, PositiveInt, name_only
from megabatch.configs.cache import Cache
from megabatch.configs.recipe import Name

# No control characters, quotes, spaces or shell signs: a newline in a quoted #SBATCH line would run as a command.
SchedulerWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:=@%+/\-\[\]&|*]{1,256}$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Local(Choice):
    """Processes on this machine, started by torchrun."""

    name: Literal["local"] = "local"


class Slurm(Choice):
    """A job for sbatch; the keys are sbatch's own options."""

    name: Literal["slurm"] = "slurm"
    partition: SchedulerWord | None = None
    account: SchedulerWord | None = None
    qos: SchedulerWord | None = None
    constraint: SchedulerWord | None = None
    reservation: SchedulerWord | None = None
    time_minutes: PositiveInt = 60
    cpus_per_task: PositiveInt | None = None
    memory_gigabytes: PositiveInt | None = None
    modules: tuple[SchedulerWord, ...] = ()


Backend = Annotated[Local | Slurm, Field(discriminator="name"), BeforeValidator(name_only)]


class Limits(Frozen):
    """How long to wait before something counts as broken (docs/failures.md).

    A rank that gives no sign of life for `silent_seconds` ends the run; so does one for which the others wait longer
    than `collective_timeout_seconds` in a collective, though it lives.
    """

    collective_timeout_seconds: PositiveInt = 600
    silent_seconds: PositiveInt = 60


class Cluster(Frozen):
    """Ranks and where they run: `nodes * processes_per_node` ranks in all."""

    name: Name
    nodes: PositiveInt = 1
    processes_per_node: PositiveInt = 1
    device: Literal["cpu", "cuda"] = "cpu"
    threads_per_process: PositiveInt = 1
    loader_threads: PositiveInt = 2
    backend: Backend = Local()
    environment: dict[EnvironmentName, EnvironmentText] = {}
    limits: Limits = Limits()
    cache: Cache = Cache()

    @property
    def num_ranks(self) -> int:
        """Return the number of processes that train together."""
        return self.nodes * self.processes_per_node
