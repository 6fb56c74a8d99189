"""What users write as data.path: braces as webdataset expands them, `::`, schemes, and no secret in a message."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
from braceexpand import braceexpand
from hypothesis import example, given
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.sources.places import beside, is_remote, joined, name_of, parent_of, place_of, visible
from megabatch.data.sources.spec import MAX_SHARDS, expand_braces, is_pattern, names_a_file, places_in

HERE = Path("/home/me")
WORDS = st.text("ab0-./", max_size=4)
NUMBERS = st.integers(-30, 30).map(str) | st.integers(0, 130).map(lambda n: f"{n:03d}")
RANGES = st.tuples(NUMBERS, NUMBERS).map(lambda pair: f"{{{pair[0]}..{pair[1]}}}")
STEPPED = st.tuples(NUMBERS, NUMBERS, st.integers(1, 9)).map(lambda t: f"{{{t[0]}..{t[1]}..{t[2]}}}")
LETTERS = st.tuples(st.sampled_from("bcxyzBCZ"), st.sampled_from("bcxyzBCZ")).map(lambda p: f"{{{p[0]}..{p[1]}}}")
PATTERNS = st.recursive(
    WORDS | RANGES | STEPPED | LETTERS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"{{{','.join(parts)}}}")
        | st.lists(inner, max_size=2).map("".join)
    ),
    max_leaves=5,
)


@given(PATTERNS)
@example("train-{000000..000099}.tar")
@example("{train-{0..3},val}-{a,b}.tar")
@example("{}{a}{,}")
def test_braces_are_expanded_as_webdataset_does(pattern: str) -> None:
    assert expand_braces(pattern) == list(braceexpand(pattern, escape=False))


@given(st.text("{}ab,.0", max_size=12))
def test_braces_without_partner_are_an_error_and_nothing_else_is(text: str) -> None:
    depths = list(accumulate((letter == "{") - (letter == "}") for letter in text))
    if min(depths, default=0) == 0 and sum(depths[-1:]) == 0:
        assert expand_braces(text) == list(braceexpand(text, escape=False))
    else:
        with pytest.raises(DataError, match="a brace has no partner"):
            expand_braces(text)


@pytest.mark.parametrize(
    "pattern",
    ["{0..999999999}", "{0..99999}{0..99999}", "{x{0..9999}{0..9999},y}", "{0..9}" * 40, "{a,{0..1000000}}"],
)
def test_a_pattern_for_a_billion_shards_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(DataError, match=rf"names [\d,]+ shards or more, at most {MAX_SHARDS:,} are taken"):
        expand_braces(pattern)


def test_a_location_may_be_several_specs() -> None:
    assert places_in("big/{train,val}-{00..01}.tar::/other/train-9.tar::s3://b/*.tar", HERE) == [
        "/home/me/big/train-00.tar", "/home/me/big/train-01.tar", "/home/me/big/val-00.tar", "/home/me/big/val-01.tar",
        "/other/train-9.tar", "s3://b/*.tar",
    ]  # fmt: skip
    assert places_in("file:///data/../big", HERE) == ["/big"]
    assert places_in("http://[::1]:80/a.tar::b.tar", HERE) == ["http://[::1]:80/a.tar", "/home/me/b.tar"]
    with pytest.raises(DataError, match="nothing stands before or after"):
        places_in("a.tar::", HERE)


def test_what_is_a_pattern_and_what_is_a_file() -> None:
    assert is_pattern("/big/train-*.tar")
    assert not is_pattern("https://host/train-0.tar?version=1")
    assert names_a_file("https://host/train-0.tar?version=1")
    assert names_a_file("/big/sizes.json")
    assert not names_a_file("s3://bucket/folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipe:cat /etc/passwd", "pipe:cat /etc/passwd: data is not read from pipe: "),
        ("PIPE:cat x", "data is not read from pipe"),
        ("ftp://host/train-0.tar", "Allowed are a path and file://, http://, https://, s3://, gs://"),
        ("simplecache::s3://b/x", "simplecache"),
        ("file:relative.tar", "data is not read from file: "),
        ("file://host/train.tar", "names a host. Write file:///absolute/path"),
        ("http:///x", "names no host"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", "^s3://bucket/x: holds credentials"),
        ("", "is no path"),
        ("a\0b", "is no path"),
    ],
)
def test_other_schemes_and_tricks_are_refused(text: str, message: str) -> None:
    if text.startswith("simplecache"):
        assert places_in(text, HERE)[0] == "/home/me/simplecache"  # a path that is not there, and no fsspec chain
        return
    with pytest.raises(DataError, match=message):
        place_of(text, HERE)


SECRETS = st.text("abcXYZ019%+=", min_size=12, max_size=20)


@given(SECRETS, SECRETS, SECRETS, st.sampled_from(["http", "https", "s3", "gs"]))
def test_no_message_shows_user_password_or_signature(user: str, password: str, signature: str, scheme: str) -> None:
    query = f"?X-Signature={signature}" if scheme.startswith("http") else ""
    shown = visible(f"{scheme}://{user}:{password}@host/big/train-0.tar{query}")
    assert shown == f"{scheme}://host/big/train-0.tar"
    both = visible(
        f"/big/val.tar::https://{user}@host/a.tar?{signature}::ftp://{user}:{password}@[::1]/b.tar?{signature}"
    )
    assert both == "/big/val.tar::https://host/a.tar::ftp://[::1]/b.tar"


def test_files_of_a_folder_keep_the_token_of_its_url() -> None:
    assert joined("https://host/big/?token=1", "train 0.tar") == "https://host/big/train%200.tar?token=1"
    assert joined("s3://b/big/", "train 0.tar") == "s3://b/big/train 0.tar"
    assert parent_of("https://host/big/train-0.tar?token=1") == "https://host/big?token=1"
    assert parent_of("/train-0.tar") == "/"
    assert name_of("s3://b/big/a?b.tar") == "a?b.tar"


@pytest.mark.parametrize("text", ["/etc/passwd", "../x.tar", "file:///etc/passwd"])
def test_a_list_from_elsewhere_names_no_file_of_this_machine(text: str) -> None:
    with pytest.raises(DataError, match="outside its own folder"):
        beside("https://host/big/sizes.json", text)
    assert not is_remote(beside("/big/sizes.json", text))
    assert beside("https://host/big/sizes.json", "s3://b/x.tar") == "s3://b/x.tar"
    assert beside("https://host/big/sizes.json", "sub/x.tar") == "https://host/big/sub/x.tar"
