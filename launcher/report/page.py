"""Puts a page together: templates that escape everything, one style and one script, both named by hash in the policy.

The policy lets the page load nothing from anywhere: no network, no other script, no frame.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megabatch.configs.new_file import write_whole
from megabatch.data.clean.report_style import STYLE
from megabatch.launcher.from_here import from_here
from megabatch.launcher.report import classes, linked, ranks, recipe, summary, trouble, words
from megabatch.launcher.report.charts import Chart, axes, charts_of, most_points
from megabatch.launcher.report.run import Run

if TYPE_CHECKING:
    from jinja2 import Environment

RELOAD_SECONDS = 20


def run_page(run: Run, page: Path, price: float | None = None) -> str:
    """Return report.html of a run; `page` is where it will lie, for links from there."""
    charts = charts_of(run)
    shown: dict[str, Any] = {
        "run": run, "folder": from_here(run.run_dir.root), "reload_seconds": RELOAD_SECONDS,
        "failure": trouble.failure_of(run), "cards": summary.cards(run, price),
        "facts": summary.facts(run),
        "details": [classes.details_of(values) for values in run.details], "ranks": ranks.ranks_of(run),
        "trouble": trouble.trouble_of(run), "checkpoints": trouble.checkpoints_of(run), "plan": recipe.plan_of(run),
        "commands": recipe.commands_of(run), "differences": recipe.differences_of(run),
        "recipe": recipe.recipe_text(run), "links": linked.links_of(run, page),
    }  # fmt: skip
    return document("report.html", [run], charts, {**shown, "sections": _sections(shown, charts)})


def document(template: str, runs: Sequence[Run], charts: Sequence[Chart], shown: dict[str, Any]) -> str:
    """Return a whole page with the charts of these runs."""
    most = most_points(charts)
    style, script = STYLE + _file("report.css"), _file("chart.js")
    return (
        _environment()
        .get_template(template)
        .render(
            **shown, charts=charts, style=style, script=script, policy=_policy(style, script),
            chart_data={"runs": [axes(run) for run in runs], "charts": [chart.to_json(most) for chart in charts]},
            written=words.moment(time.time()), version=version("megabatch"),
        )
    )  # fmt: skip


def write_page(file: Path, text: str) -> None:
    """Write a page that is there whole, or as it was before. Raises OSError with the name of the page."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def _sections(shown: dict[str, Any], charts: Sequence[Chart]) -> list[tuple[str, str]]:
    """Return key and title of the sections that the page has."""
    found = [("ran", "What ran"), *([("curves", "Curves")] if charts else [])]
    found += [(f"classes-{one.split}", f"{one.title} ({one.split})") for one in shown["details"]]
    found += [("ranks", "Ranks")] if shown["ranks"] else []
    found.append(("trouble", "What happened"))
    found += [("plan", "Plan")] if shown["plan"] else []
    found.append(("again", "Do it again"))
    return [*found, *([("more", "More")] if shown["links"] else [])]


def _policy(style: str, script: str) -> str:
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )


def _hash(text: str) -> str:
    """Return what a policy calls a text (Content Security Policy Level 3, hash-source)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("megabatch.launcher.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
