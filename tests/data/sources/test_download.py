"""A file from a web server that misbehaves: every fault ends in the right bytes, or in a clear message."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.cache import Cache
from megabatch.data.errors import DataError
from megabatch.data.sources.download import OtherFileError, download
from megabatch.data.sources.remote import MissingError
from support import web as faults
from support.web import Fault, Web, serving

CONTENT = random.Random(0).randbytes(50_000)
SETTINGS = Cache(attempts=4, timeout_seconds=0.5)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "f").write_bytes(CONTENT)
    with serving(tmp_path) as server:
        yield server


def loaded(web: Web, *misbehaviour: Fault, begin: bytes = b"", settings: Cache = SETTINGS) -> tuple[bytes, list[float]]:
    """Return what was loaded, and the pauses between the tries."""
    web.faults["/f"] = list(misbehaviour)
    file, pauses = BytesIO(begin), []
    download(f"{web.url}/f?signature=SECRET", file, settings, len(CONTENT), pauses.append)
    return file.getvalue(), pauses


@pytest.mark.parametrize(
    ("misbehaviour", "ranges"),
    [
        ([], [""]),
        ([faults.status(503), faults.status(503)], ["", "", ""]),
        ([faults.status(429, {"Retry-After": "7"})], ["", ""]),
        ([faults.status(500), faults.status(502)], ["", "", ""]),
        ([faults.cut_in_the_middle], ["", "bytes=25000-"]),
        ([faults.cut_in_the_middle, faults.cut_in_the_middle], ["", "bytes=25000-", "bytes=37500-"]),
        ([faults.truncated], ["", "bytes=16666-"]),
        ([faults.silent], ["", "bytes=100-"]),
        ([faults.slow_but_whole], [""]),
        ([faults.cut_in_the_middle, faults.without_range], ["", "bytes=25000-"]),
        ([faults.cut_in_the_middle, faults.beginning_elsewhere], ["", "bytes=25000-"]),
        ([faults.cut_in_the_middle, faults.status(416)], ["", "bytes=25000-", ""]),
        ([faults.cut_in_the_middle, faults.status(206)], ["", "bytes=25000-", ""]),
    ],
)
def test_the_bytes_are_right_in_the_end(web: Web, misbehaviour: list[Fault], ranges: list[str]) -> None:
    content, pauses = loaded(web, *misbehaviour)
    assert content == CONTENT
    assert [asked for _, asked in web.requests] == ranges
    assert len(pauses) == len(ranges) - 1


def test_a_slow_trickle_is_given_up_and_gone_on_with(web: Web) -> None:
    content, pauses = loaded(web, faults.trickling)
    assert content == CONTENT
    assert len(pauses) == 1
    assert web.requests[1][1].startswith("bytes=")


def test_what_an_earlier_process_left_is_gone_on_with(web: Web) -> None:
    assert loaded(web, begin=CONTENT[:1234])[0] == CONTENT
    assert web.requests == [("/f", "bytes=1234-")]
    assert loaded(web, begin=CONTENT)[0] == CONTENT
    assert len(web.requests) == 1


def test_the_server_decides_how_long_to_wait_and_pauses_grow(web: Web) -> None:
    assert loaded(web, faults.status(429, {"Retry-After": "7"}))[1] == [7.0]
    pauses = loaded(web, *[faults.status(503)] * 6, settings=Cache(attempts=8))[1]
    for tries, seconds in enumerate(pauses):
        assert 0.25 * 2**tries <= seconds <= 0.5 * 2**tries
    assert len({seconds / 2**tries for tries, seconds in enumerate(pauses)}) == 6  # no two alike


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.status(503), "HTTP 503"),
        (faults.truncated, "the body ended after 16,666 of 50,000 bytes"),
        (faults.silent, "the server fell silent"),
    ],
)
def test_after_the_last_try_the_url_and_the_last_reason_are_told(web: Web, fault: Fault, reason: str) -> None:
    settings = Cache(attempts=2, timeout_seconds=0.2)
    with pytest.raises(DataError) as caught:
        loaded(web, *[fault] * 2, begin=b"", settings=settings)
    assert str(caught.value).startswith(f"{web.url}/f: could not be read in 2 tries. The last one: ")
    if fault is not faults.truncated:  # the second try goes on after the first
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (faults.status(404), MissingError, "/f: not found (404). Correct data.path"),
        (faults.status(403), DataError, "/f: may not be read (HTTP 403). Check the credentials"),
        (faults.status(401), DataError, "/f: may not be read (HTTP 401)"),
        (faults.status(400), DataError, "/f: the server answers HTTP 400, which is no file"),
        (faults.status(301, {"Location": "file:///etc/passwd"}), DataError, "/f: cannot be requested (InvalidSchema)"),
        (faults.error_page, OtherFileError, "/f: 39 bytes of text/html, but dataset.json recorded 50,000"),
    ],
)
def test_what_no_try_will_change_ends_at_once(web: Web, fault: Fault, error: type[DataError], message: str) -> None:
    with pytest.raises(error) as caught:
        loaded(web, fault)
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert len(web.requests) == 1


def test_a_server_that_is_not_there(web: Web) -> None:
    pauses: list[float] = []
    with pytest.raises(DataError, match=r"^http://127.0.0.1:9/f: could not be read in 4 tries. The last one: no conn"):
        download("http://me:SECRET@127.0.0.1:9/f?signature=SECRET", BytesIO(), SETTINGS, None, pauses.append)
    assert len(pauses) == 3


MISBEHAVIOUR = st.sampled_from([
    faults.cut_in_the_middle, faults.truncated, faults.without_range, faults.beginning_elsewhere,
    faults.status(503), faults.status(416), faults.status(206),
])  # fmt: skip


@given(st.lists(MISBEHAVIOUR, max_size=6), st.integers(0, len(CONTENT)))
def test_any_series_of_faults_ends_in_the_right_bytes(
    tmp_path_factory: pytest.TempPathFactory, misbehaviour: list[Fault], begun: int
) -> None:
    folder = tmp_path_factory.mktemp("web")
    (folder / "f").write_bytes(CONTENT)
    with serving(folder) as server:
        assert loaded(server, *misbehaviour, begin=CONTENT[:begun], settings=Cache(attempts=9))[0] == CONTENT
