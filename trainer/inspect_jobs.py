"""`python -m megabatch.trainer.inspect_jobs job.yaml...`: inspect_model for many jobs with one start of torch.

Prints one line of JSON: a list of what was found, in the order of the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from megabatch.configs.load import read_job
from megabatch.data.errors import DataError
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.inspect_model import inspect


def main() -> int:
    """Print the findings; problems are part of them, so the exit code is 0 either way."""
    print(json.dumps([_found(Path(file)) for file in sys.argv[1:]]))
    return 0


def _found(file: Path) -> dict[str, Any]:
    job = read_job(file)
    if job.working_folder not in sys.path:
        sys.path.insert(0, job.working_folder)
    torch.set_num_threads(job.cluster.threads_per_process)
    try:
        return inspect(job)
    except (TrainingError, DataError) as error:
        return {"problems": [str(error)]}


if __name__ == "__main__":
    sys.exit(main())
