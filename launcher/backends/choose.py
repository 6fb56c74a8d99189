"""Name of a backend -> module, ours or the user's own. Imported only when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol, cast

from megabatch.configs.cluster import CustomBackend
from megabatch.configs.errors import ConfigError, Problem
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
    if isinstance(job.cluster.backend, CustomBackend):
        return job.cluster.backend.watched
    on_one_node = ("accelerate", "deepspeed")
    return job.cluster.backend.name in ("local", "ssh", *(on_one_node if job.cluster.nodes == 1 else ()))


def backend_of(job: Job) -> Backend:
    """Return the module of the job's backend. Raises ConfigError for one of the user's own that is none."""
    settings = job.cluster.backend
    if not isinstance(settings, CustomBackend):
        return cast(Backend, importlib.import_module(MODULES[settings.name]))
    if job.working_folder not in sys.path:
        sys.path.insert(0, job.working_folder)
    try:
        module = importlib.import_module(settings.module)
    except Exception as error:  # somebody else's code
        raise _not_usable(settings, f"{type(error).__name__}: {error}") from error
    if missing := [name for name in ("render", "submit") if not callable(getattr(module, name, None))]:
        raise _not_usable(settings, f"{_place(module)} has no function {missing[0]!r}. A backend has render and submit")
    return cast(Backend, module)


def _not_usable(settings: CustomBackend, problem: str) -> ConfigError:
    where = "Modules are looked for in the current folder and among the installed ones"
    return ConfigError([Problem("cluster.backend.module", f"{settings.module}: {problem}. {where}")])


def _place(module: ModuleType) -> str:
    return module.__file__ or module.__name__
