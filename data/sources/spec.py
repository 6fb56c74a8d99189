"""`data.path` as users write it: a folder, or a spec of shards with `{000..099}`, `{a,b}`, `*`, `::`. Opens nothing."""

from __future__ import annotations

import re
import string
from pathlib import Path

from megabatch.data.errors import DataError
from megabatch.data.sources.places import divided, is_http, name_of, place_of, visible

MAX_SHARDS = 1_000_000
_INTEGERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?", re.ASCII)
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?", re.ASCII)
_ALPHABET = string.ascii_uppercase + string.ascii_lowercase
_GLOB = re.compile(r"[*?\[]")


def places_in(location: str, working_folder: Path) -> list[str]:
    """Return the places that a location names: `::` divides, braces are expanded, `*` and `?` are left as they are.

    Raises DataError for a scheme that is not allowed, unbalanced braces, and more than a million shards.
    """
    places: list[str] = []
    for part in divided(location):
        if not part:
            raise DataError(f"{visible(location)}: nothing stands before or after a '::'")
        places += [place_of(text, working_folder) for text in expand_braces(part)]
        _require_few(len(places), location)
    return places


def is_pattern(place: str) -> bool:
    """Return whether a place has to be looked up in a list of files. In the URL of a web server `?` begins a query."""
    return "*" in name_of(place) if is_http(place) else _GLOB.search(place) is not None


def names_a_file(place: str) -> bool:
    """Return whether a place is a shard or a list of shards, not a folder; by its name alone."""
    return name_of(place).endswith((".tar", ".json"))


def expand_braces(pattern: str) -> list[str]:
    r"""Return all that a pattern stands for, as bash and webdataset's braceexpand do.

    >>> expand_braces("train-{08..10}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar']
    >>> expand_braces("{train-{0..1},val-0}.tar")
    ['train-0.tar', 'train-1.tar', 'val-0.tar']
    """
    variants = [""]
    end = 0
    for start, stop in _groups(pattern):
        choices = _choices(pattern[start + 1 : stop])
        _require_few(len(variants) * len(choices), pattern)
        literal = pattern[end:start]
        variants = [f"{head}{literal}{choice}" for head in variants for choice in choices]
        end = stop + 1
    return [head + pattern[end:] for head in variants]


def _choices(inside: str) -> list[str]:
    """Return what the inside of a pair of braces stands for."""
    if match := _INTEGERS.fullmatch(inside):
        return _integers(match[1], match[2], int(match[3] or 1) or 1)
    if match := _LETTERS.fullmatch(inside):
        first, last, step = _ALPHABET.index(match[1]), _ALPHABET.index(match[2]), int(match[3] or 1) or 1
        return list(_ALPHABET[first : last + 1 : step] if first <= last else _ALPHABET[last : first + 1][::-step])
    parts = _split_at_commas(inside)
    if len(parts) == 1:
        return [f"{{{text}}}" for text in expand_braces(inside)]
    choices: list[str] = []
    for part in parts:
        choices += expand_braces(part)
        _require_few(len(choices), inside)
    return choices


def _integers(first: str, last: str, step: int) -> list[str]:
    padded = any(re.match(r"-?0\d", text) for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    low, high = int(first), int(last)
    numbers = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
    _require_few(abs(high - low) // step + 1, f"{{{first}..{last}}}")
    return [f"{number:0{width}d}" for number in numbers]


def _groups(text: str) -> list[tuple[int, int]]:
    """Return where the outermost pairs of braces begin and end."""
    groups = []
    depth = start = 0
    for position, letter in enumerate(text):
        if letter == "{":
            start = start if depth else position
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                groups.append((start, position))
        if depth < 0:
            break
    if depth:
        raise DataError(f"{visible(text)}: a brace has no partner: write train-{{000000..000099}}.tar")
    return groups


def _split_at_commas(text: str) -> list[str]:
    inside = {position for start, stop in _groups(text) for position in range(start, stop)}
    cuts = [position for position, letter in enumerate(text) if letter == "," and position not in inside]
    return [text[start:stop] for start, stop in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]


def _require_few(count: int, pattern: str) -> None:
    if count > MAX_SHARDS:
        raise DataError(f"{visible(pattern)}: names {count:,} shards or more, at most {MAX_SHARDS:,} are taken")
