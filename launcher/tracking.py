"""What the trackers of a recipe need of this machine: their packages, which come with extras of megabatch."""

from __future__ import annotations

from importlib.util import find_spec

from megabatch.configs.errors import Problem
from megabatch.configs.recipe import Recipe

_NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def tracking_problems(recipe: Recipe) -> list[Problem]:
    """Return a problem for each tracker whose packages are not installed."""
    return [
        Problem("", f"tracking.{key} needs {missing}, not installed here. Instead: pip install 'megabatch[{key}]'")
        for key, packages in _NEEDS.items()
        if getattr(recipe.tracking, key) is not None
        and (missing := ", ".join(name for name in packages if find_spec(name) is None))
    ]
