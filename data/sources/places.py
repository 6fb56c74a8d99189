"""Places: the path or URL of one file or folder, as text. Pure; opens nothing.

A place is an absolute path or a URL of an allowed scheme. Everything else ends here with a message, so that nothing
after this module meets `pipe:`, a relative path or a password in a message.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from megabatch.data.errors import DataError

SCHEMES = ("file", "http", "https", "s3", "gs")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*):")


def place_of(text: str, base: Path) -> str:
    """Return the place a user wrote: a path from `base` on, or a URL. Raises DataError for what is not allowed."""
    if not text or "\0" in text or "\n" in text:
        raise DataError(f"{text!r} is no path and no URL")
    match = _SCHEME.match(text)
    if match is None:
        return os.path.normpath(base / Path(text).expanduser())
    scheme = match[1].lower()
    if scheme not in SCHEMES or not text[match.end() :].startswith("//"):
        raise DataError(
            f"{visible(text)}: data is not read from {scheme}: ... Allowed are a path and "
            f"{', '.join(f'{name}://' for name in SCHEMES)} (write ./{visible(text)} if it is a path)"
        )
    rest = text[match.end() + 2 :]
    if scheme == "file":
        if not rest.startswith("/"):
            raise DataError(f"{text}: names a host. Write file:///absolute/path")
        return os.path.normpath(rest)
    if not rest.partition("/")[0]:
        raise DataError(f"{visible(text)}: names no {'host' if is_http(text) else 'bucket'}")
    if not is_http(text) and "@" in rest.partition("/")[0]:
        raise DataError(
            f"{visible(text)}: holds credentials. Set them where aws or gcloud look for them (docs/data.md)"
        )
    return f"{scheme}://{rest}"


def is_remote(place: str) -> bool:
    """Return whether a place is a URL. `file://` never is: place_of makes a path of it."""
    return _SCHEME.match(place) is not None


def is_http(place: str) -> bool:
    """Return whether a place is on a web server, which has no list of its files."""
    return place.lower().startswith(("http://", "https://"))


def divided(location: str) -> list[str]:
    """Return the parts of a location, which `::` divides unless it belongs to an address as in http://[::1]/."""
    return re.split(r"::(?![0-9A-Fa-f:]*\])", location)


def visible(location: str) -> str:
    """Return a location as it may stand in a message: without user, password and query, which may be a signature.

    >>> visible("https://me:secret@host/train-0.tar?X-Amz-Signature=1f")
    'https://host/train-0.tar'
    """
    return "::".join(map(_visible_part, divided(location)))


def _visible_part(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    host, slash, path = rest.partition("/")
    if scheme.lower() in ("file", "s3", "gs"):  # here a ? is part of a name
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return f"{scheme}://{re.split('[?#]', host.rpartition('@')[2])[0]}{slash}{re.split('[?#]', path)[0]}"


def joined(folder: str, name: str) -> str:
    """Return the place of a file in a folder. The query of a URL (a token, say) stays at its end."""
    if not is_http(folder):
        return f"{folder.rstrip('/')}/{name}"
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}", fragment=""))


def parent_of(place: str) -> str:
    """Return the folder a file lies in."""
    if not is_http(place):
        return place.rpartition("/")[0] or "/"
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0], fragment=""))


def name_of(place: str) -> str:
    """Return the name of a file without its folder.

    >>> name_of("https://host/big/train-0.tar?token=1")
    'train-0.tar'
    """
    return (urlsplit(place).path if is_http(place) else place).rpartition("/")[2]


def beside(manifest: str, text: str) -> str:
    """Return the place of a shard that a list of shards names, relative to the list.

    Raises DataError if a list from elsewhere names a file of this machine.
    """
    if not is_remote(manifest):
        return place_of(text, Path(parent_of(manifest)))
    if _SCHEME.match(text) is None and not text.startswith("/") and ".." not in text.split("/"):
        return joined(parent_of(manifest), text)
    place = place_of(text, Path("/"))
    if not is_remote(place):
        raise DataError(f"{visible(manifest)}: names the shard {visible(text)}, which is outside its own folder")
    return place
