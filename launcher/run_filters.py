"""What `megabatch runs --where` and `--sort` mean: `test.top1>0.9`, `recipe=digits*`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from megabatch.configs.errors import ConfigError, Problem, nearest
from megabatch.configs.targets import METRICS
from megabatch.launcher.run_list import Run, Value

_CONDITION = re.compile(r"([\w.]+)\s*(>=|<=|!=|=|>|<)\s*(.+)")
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COLUMNS = ("run", "state", "recipe", "age", "epochs", "ranks", "best")


@dataclass(frozen=True)
class Condition:
    """One `--where`. A run of which the key is not known does not fulfil it, whatever it says."""

    key: str
    sign: str
    wanted: str

    def holds(self, run: Run) -> bool:
        """Return whether a run is as it says."""
        value = run.value(self.key)
        if value is None:
            return False
        if self.sign in _ORDERS:
            if isinstance(value, str | bool):
                return False
            return _ORDERS[self.sign](value, _number(self.wanted))
        return _equal(value, self.wanted) == (self.sign == "=")


def parse_condition(text: str) -> Condition:
    """Read one `--where`. Raises ConfigError.

    >>> parse_condition("test.top1>=0.9")
    Condition(key='test.top1', sign='>=', wanted='0.9')
    """
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise _wrong(f"--where {text}", "write KEY=VALUE, !=, >, >=, < or <=, in quotes: --where 'test.top1>0.9'")
    condition = Condition(*found.groups())
    if condition.sign in _ORDERS:
        try:
            _number(condition.wanted)
        except ValueError:
            seen = f"{condition.wanted!r} is no number: write one, or with s, m, h or d behind it for an age"
            raise _wrong(f"--where {text}", seen) from None
    return condition


def chosen(runs: Sequence[Run], conditions: Sequence[Condition], states: Sequence[str]) -> list[Run]:
    """Return the runs that fulfil all conditions and have one of the states. Raises ConfigError for unknown keys."""
    for condition in conditions:
        _require_known(f"--where {condition.key}", condition.key, runs)
    return [
        run
        for run in runs
        if (not states or run.state in states) and all(condition.holds(run) for condition in conditions)
    ]


def ordered(runs: Sequence[Run], key: str, others: Sequence[Run]) -> list[Run]:
    """Return the runs, the best of a metric first, the smallest of anything else; those without it come last.

    Raises ConfigError if none of them, nor of the `others`, has the key.
    """
    _require_known(f"--sort {key}", key, others)

    def place(run: Run) -> tuple[int, float, str]:
        value = run.value(key)
        if isinstance(value, int | float):
            metric = METRICS.get(run.metric if key == "best" else key.rpartition(".")[2])
            return 0, -value if metric is not None and metric.higher_is_better else value, ""
        return (2, 0.0, "") if value is None else (1, 0.0, value)

    return sorted(runs, key=place)


def _require_known(where: str, key: str, runs: Sequence[Run]) -> None:
    if not runs or key in COLUMNS or any(run.value(key) is not None for run in runs):
        return
    measured = {f"test.{name}" for run in runs for name in run.test}
    known = [*COLUMNS, *sorted(measured)]
    raise _wrong(where, f"no run has it. {nearest(key, known)} Keys of recipes work too: optimizer.name, cluster.nodes")


def _equal(value: Value, wanted: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == wanted.lower()
    if isinstance(value, int | float):
        try:
            return float(value) == _number(wanted)
        except ValueError:
            return False
    return fnmatchcase(str(value), wanted)


def _number(text: str) -> float:
    """Return the number of "0.9", "90%" or "2d", which is seconds. Raises ValueError.

    >>> _number("0.9"), _number("90%"), _number("2h")
    (0.9, 0.9, 7200.0)
    """
    if text.endswith("%"):
        return float(text[:-1]) / 100
    return float(text[:-1]) * _SECONDS[text[-1]] if text[-1:] in _SECONDS else float(text)


def _wrong(where: str, problem: str) -> ConfigError:
    return ConfigError([Problem(where, problem)])
