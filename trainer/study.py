"""What ranks do beside training and evaluating: range tests, probes, soups, ensembles, scans, what stages forget.

The launcher asks by a JSON file. The ranks start, join and fail as in a training, so every study runs through the same
step and the same evaluation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megabatch.trainer.build import Parts
from megabatch.trainer.process import write_json


def run(parts: Parts, request_file: Path) -> None:
    """Do what the file asks for and write the result to the run folder."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    result = _result(parts, request.pop("study"), request)
    if parts.world.is_main:
        write_json(parts.run_dir.study_result, result)


def _result(parts: Parts, study: str, settings: dict[str, Any]) -> dict[str, Any]:
    if study == "lr":
        from megabatch.trainer.tune_lr import range_test

        return range_test(parts, **settings)
    if study == "batch":
        from megabatch.trainer.tune_batch import probe

        return probe(parts, **settings)
    if study == "sensitivity":
        from megabatch.trainer.pruning.sensitivity import scan

        return scan(parts, **settings)
    if study == "ensemble":
        from megabatch.trainer.ensemble import combine

        return combine(parts, **settings)
    if study == "stage":
        from megabatch.trainer.continual.measure import measure

        return measure(parts, **settings)
    assert study == "soup"
    from megabatch.trainer.soup import cook

    return cook(parts, **settings)
