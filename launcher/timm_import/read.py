"""A command that starts timm's train.py, or the args.yaml that it has saved, as values. Raises ConfigError."""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from megabatch.configs.errors import ConfigError, Problem, nearest, shortened
from megabatch.configs.yaml_tree import read_tree
from megabatch.launcher.timm_import.argument import Argument
from megabatch.launcher.timm_import.arguments import ARGUMENTS
from megabatch.launcher.timm_import.values import Values

_WHERE = "command line"
_SCRIPT = re.compile(r"[\w./\-]*\.(py|sh)")
_PROCESSES = re.compile(r"--nproc[-_]per[-_]node(?:=(.*))?")
_NODES = re.compile(r"--nnodes(?:=(.*))?")
_PROGRAM = re.compile(r"(\S*/)?(python[\d.]*|torchrun|bash|sh)|-[mu]|torch\.distributed\.\w+")
_BY_NUMBER = "distributed_train.sh"  # timm's own script: its first argument is the number of processes


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem(_WHERE, f"train.py's arguments: {shortened(message)}. Correct it")])


class _Pairs(argparse.Action):
    """`key=value` words, values read as Python would, as timm's ParseKwargs does."""

    @override
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found: dict[str, Any] = {}
        for word in values:
            key, equals, value = word.partition("=")
            if not equals:
                parser.error(f"{option_string}: {word!r} is no key=value")
            found[key] = _literal(value)
        setattr(namespace, self.dest, found)


def _literal(word: str) -> Any:
    """Return the number, list or the like that a word is in Python; the word itself where YAML could not say it."""
    try:
        value = ast.literal_eval(word)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return word
    return value


def number(word: str) -> float:
    """Return a number that is one; argparse has the name of this function in its message."""
    value = float(word)
    if not math.isfinite(value):
        raise ValueError
    return value


def read_command(text: str, processes: int | None = None) -> tuple[Values, list[str]]:
    """Return the values of a command, and the words before the script that say nothing here."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError([Problem(_WHERE, f"the command is no shell command: {error}. Close it")]) from None
    script = next((place for place, word in enumerate(words) if _SCRIPT.fullmatch(word)), None)
    before, arguments = ([], words) if script is None else (words[:script], words[script + 1 :])
    started, rest = _processes(before)
    if script is not None and words[script].endswith(_BY_NUMBER) and arguments:
        started, arguments = arguments[0], arguments[1:]
    values = _parsed(arguments)
    values.processes = processes or _number(started)
    return values, rest


def read_file(file: Path, processes: int | None = None) -> Values:
    """Return the values of an args.yaml; what differs from train.py's defaults counts as given."""
    found = _from_file(file)
    values = {name: found.get(name, argument.default) for name, argument in ARGUMENTS.items()}
    given = [name for name in found if values[name] != ARGUMENTS[name].default]
    return Values(values, given, processes or 1)


def _parsed(words: list[str]) -> Values:
    parser = _parser()
    first, words = _config_file(words)
    found, unknown = parser.parse_known_args(words)
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    known = [name for argument in ARGUMENTS.values() for name in argument.names if name.startswith("--")]
    problems = [
        Problem(_WHERE, f"{shortened(word)}: train.py has no such argument. {_close(word, known)}") for word in flags
    ]
    if unknown and not flags:
        told = shortened(" ".join(unknown))
        problems = [Problem(_WHERE, f"{told}: belongs to no argument of train.py. Leave it out")]
    if problems:
        raise ConfigError(problems)
    of_file = _from_file(Path(first)) if first else {}
    given = vars(found)
    values = {name: given.get(name, of_file.get(name, argument.default)) for name, argument in ARGUMENTS.items()}
    return Values(values, list(dict.fromkeys([*given, *of_file])))


def _close(word: str, names: Iterable[str]) -> str:
    """Return the nearest argument, without the list of all 170."""
    return nearest(word, names).partition("Allowed: ")[0].strip() or "All of them: docs/from-timm.md"


@cache
def _parser() -> argparse.ArgumentParser:
    """Return train.py's parser; what is not given is absent from its result."""
    parser = _Parser(prog="train.py", add_help=False, argument_default=argparse.SUPPRESS)
    types: dict[str, Callable[[str], Any]] = {"int": int, "float": number, "text": str}
    for argument in ARGUMENTS.values():
        if argument.kind == "switch":
            parser.add_argument(*argument.names, action="store_true", default=argparse.SUPPRESS)
        elif argument.kind == "pairs":
            parser.add_argument(*argument.names, nargs="*", action=_Pairs)
        else:
            constant = "inductor" if argument.dest == "torchcompile" else None
            parser.add_argument(*argument.names, type=types[argument.kind], nargs=argument.many, const=constant)
    return parser


def _config_file(words: list[str]) -> tuple[str, list[str]]:
    """Return the file of `--config`, whose values are train.py's defaults, and the other words."""
    parser = _Parser(prog="train.py", add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", default="")
    found, rest = parser.parse_known_args(words)
    return found.config, rest


def _from_file(file: Path) -> dict[str, Any]:
    tree = read_tree(file, str(file))
    problems = []
    for name, value in tree.values.items():
        argument = ARGUMENTS.get(name)
        if argument is None:
            told = f"{shortened(name)}: train.py has no such argument. {_close(name, ARGUMENTS)}"
            problems.append(Problem(tree.origin((name,)), told))
        elif not argument.fits(value):
            told = f"{name}: {shortened(repr(value))} is not what train.py takes: write {_wanted(argument)}"
            problems.append(Problem(tree.origin((name,)), told))
    if problems:
        raise ConfigError(problems)
    return {name: value for name, value in tree.values.items() if value is not None}


def _wanted(argument: Argument) -> str:
    word = {"int": "an integer", "float": "a number", "text": "text", "switch": "true or false", "pairs": "a mapping"}
    return f"a list, each {word[argument.kind]}" if argument.many in ("+", 3) else word[argument.kind]


def _processes(before: list[str]) -> tuple[str, list[str]]:
    """Return the number of processes that torchrun's words ask for (as text), and the words without meaning here."""
    found = {"processes": "1", "nodes": "1"}
    rest: list[str] = []
    words = iter(before)
    for word in words:
        for name, pattern in (("processes", _PROCESSES), ("nodes", _NODES)):
            if match := pattern.fullmatch(word):
                found[name] = match.group(1) if match.group(1) is not None else next(words, "")
                break
        else:
            rest.append(word)
    if found["nodes"] == "1":
        return found["processes"], _without_program(rest)
    if not (found["nodes"].isdecimal() and found["processes"].isdecimal()):
        return f"{found['nodes']} x {found['processes']}", rest
    return str(int(found["nodes"]) * int(found["processes"])), _without_program(rest)


def _without_program(words: list[str]) -> list[str]:
    """Leave out the words that only name the program: python -m torch.distributed.launch, torchrun."""
    return [word for word in words if not _PROGRAM.fullmatch(word)]


def _number(started: str) -> int:
    if not started.isdecimal() or not 1 <= int(started) <= 1_000_000:
        told = f"{shortened(started)!r} processes: how many are they? The learning rate depends on it: give --ranks N"
        raise ConfigError([Problem(_WHERE, told)])
    return int(started)
