"""The cluster file: where a run happens. Nothing in it may change what is trained."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from megabatch.configs.base import (
    Choice,
    EnvironmentName,
    EnvironmentText,
    Frozen,
    Options,
    PositiveInt,
    name_only,
)
from megabatch.configs.cache import Cache
from megabatch.configs.hosts import AccelerateLaunch, DeepSpeedLaunch, Kubernetes, Ssh
from megabatch.configs.recipe import Name
from megabatch.configs.slurm import Slurm


def _host_and_port(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+:[0-9]{1,5}", text):
        raise ValueError("write HOST:PORT, such as node1:29500")
    return text


def _module_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*", text):
        raise ValueError("write the name of a module, such as my_backend for my_backend.py")
    return text


Endpoint = Annotated[str, AfterValidator(_host_and_port)]
Restarts = Annotated[int, Field(ge=0)]


class Local(Choice):
    """Processes on this machine; all are started anew up to `max_restarts` times if one fails."""

    name: Literal["local"] = "local"
    max_restarts: Restarts = 0


class Torchrun(Choice):
    """torchrun that you start on every machine yourself: `megabatch launch` writes the job and prints the command.

    The machines meet at `endpoint`, the first one's name and a free port. With `min_nodes` the training goes on with
    fewer machines when one is lost, and with more when one comes back, from the newest checkpoint each time.
    """

    name: Literal["torchrun"] = "torchrun"
    endpoint: Endpoint
    min_nodes: PositiveInt | None = None
    max_restarts: Restarts = 0


class CustomBackend(Choice):
    """A backend of your own: a `module` with the functions `render` and `submit` of those in launcher/backends.

    It is looked for in the current folder and among the installed ones; it finds its `options` in
    `job.cluster.backend.options`. `watched` says that `submit` returns when the job has ended, as with a job on this
    machine, and not already when a scheduler has it.
    """

    name: Literal["custom"] = "custom"
    module: Annotated[str, AfterValidator(_module_name)]
    watched: bool = False
    options: Options = {}


Backend = Annotated[
    Local | Torchrun | Slurm | Ssh | AccelerateLaunch | DeepSpeedLaunch | Kubernetes | CustomBackend,
    Field(discriminator="name"),
    BeforeValidator(name_only),
]


class Limits(Frozen):
    """How long to wait before something counts as broken (docs/lost-ranks.md).

    A rank that gives no sign of life for `silent_seconds` ends the run; so does one for which the others wait longer
    than `collective_timeout_seconds` in a collective, though it lives.
    """

    collective_timeout_seconds: PositiveInt = 600
    silent_seconds: PositiveInt = 60


class Cluster(Frozen):
    """Ranks and where they run: `nodes * processes_per_node` ranks in all.

    `auto` for `device`, `processes_per_node`, `threads_per_process` or `loader_threads` means what this machine has:
    a process for each GPU, or one if there is none, and its cores shared among the processes. `check_at_start` has the
    ranks compare what they find on their nodes before they train (docs/check.md).
    """

    name: Name
    nodes: PositiveInt = 1
    processes_per_node: PositiveInt = 1
    device: Literal["cpu", "cuda"] = "cpu"
    threads_per_process: PositiveInt = 1
    loader_threads: PositiveInt = 2
    backend: Backend = Local()
    check_at_start: bool = True
    environment: dict[EnvironmentName, EnvironmentText] = {}
    limits: Limits = Limits()
    cache: Cache = Cache()

    @field_validator("backend")
    @classmethod
    def _fitting_nodes(cls, backend: Backend, info: ValidationInfo) -> Backend:
        nodes = info.data.get("nodes", 1)
        if isinstance(backend, Torchrun | Ssh) and (backend.min_nodes or 1) > nodes:
            raise ValueError(f"min_nodes={backend.min_nodes} is more than nodes={nodes}. Write {nodes} or less")
        if isinstance(backend, Ssh) and backend.hosts and (problem := backend.unlike_nodes(len(backend.hosts), nodes)):
            raise ValueError(problem)
        if isinstance(backend, AccelerateLaunch | DeepSpeedLaunch) and nodes > 1 and backend.address is None:
            raise ValueError(f"nodes={nodes}, and no address to meet at. Write address: one of the first node")
        return backend

    @property
    def num_ranks(self) -> int:
        """Return the number of processes that train together when all nodes are there."""
        return self.nodes * self.processes_per_node

    @property
    def min_nodes(self) -> int:
        """Return the number of nodes that is enough to go on."""
        elastic = self.backend.min_nodes if isinstance(self.backend, Torchrun | Ssh) else None
        return elastic or self.nodes

    def may_have(self, num_ranks: int) -> bool:
        """Return whether the job may be trained by this number of ranks: those of whole nodes, and of enough."""
        nodes, rest = divmod(num_ranks, self.processes_per_node)
        return rest == 0 and self.min_nodes <= nodes <= self.nodes
