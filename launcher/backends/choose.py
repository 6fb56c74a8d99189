"""Name of a backend -> module. Imported only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending

MODULES = {
    "local": "megabatch.launcher.backends.local",
    "torchrun": "megabatch.launcher.backends.torchrun",
    "slurm": "megabatch.launcher.backends.slurm",
    "ssh": "megabatch.launcher.backends.ssh",
    "kubernetes": "megabatch.launcher.backends.kubernetes",
    "accelerate": "megabatch.launcher.backends.accelerate",
    "deepspeed": "megabatch.launcher.backends.deepspeed",
}


class Backend(Protocol):
    """The two functions of a backend module. The first makes a value, the second has the effect."""

    def render(self, job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
        """Return what would be run or submitted."""
        ...

    def submit(self, submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
        """Run or submit it."""
        ...


def is_watched(job: Job) -> bool:
    """Return whether the job has ended when its backend returns. A scheduler, or a person, has only been told then."""
    on_one_node = ("accelerate", "deepspeed")
    return job.cluster.backend.name in ("local", "ssh", *(on_one_node if job.cluster.nodes == 1 else ()))


def backend_of(job: Job) -> Backend:
    """Return the module of the job's backend."""
    backend: Backend = importlib.import_module(MODULES[job.cluster.backend.name])
    return backend
