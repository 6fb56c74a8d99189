"""Other pages and tables that lie in the run folder: stages, pruning, quantization, fusion, sensitivities, exports."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from megabatch.launcher.report.run import Run

_TITLES = {
    "continual.html": "Continual learning: what each stage learned and forgot",
    "pruning.json": "Pruning: before and after",
    "fusion.json": "Fusion of an ensemble: before and after",
    "ensemble.json": "Ensemble: its members and weights",
    "pretrained.json": "Pretrained weights: which tensors were found",
}
_STUDIES = {"ablation.html": "The ablation that it is part of", "overfit.html": "The case study that it is part of"}
_PATTERNS = {"sensitivity-*.html": "Sensitivity of each layer", "quantization-*.json": "Quantization"}


def links_of(run: Run, page: Path) -> list[tuple[str, str]]:
    """Return title and relative address of what else there is; `page` is where the report will lie."""
    root = run.run_dir.root
    found = [(title, root / name) for name, title in _TITLES.items() if (root / name).is_file()]
    found += [
        (f"{title}: {file.stem.partition('-')[2]}", file)
        for pattern, title in _PATTERNS.items()
        for file in sorted(root.glob(pattern))
    ]
    found += [(f"Stage {stage.root.name}", stage.report) for stage in run.run_dir.stages() if stage.report.is_file()]
    if len(root.parts) > 2 and root.parent.name == "stages":
        found.append(("The other stages", root.parents[1] / "continual.html"))
    above = [(title, folder / name) for folder in root.parents[:4] for name, title in _STUDIES.items()]
    found += [(title, file) for title, file in above if file.is_file()]
    return [(title, _address(file, page)) for title, file in found]


def _address(file: Path, page: Path) -> str:
    return quote(os.path.relpath(file.absolute(), page.absolute().parent))
