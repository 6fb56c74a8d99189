"""The page as a file: it needs nothing from outside, nothing of a stranger's runs in it, and links lead somewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from typing_extensions import override

from megabatch.launcher.report.page import run_page
from megabatch.launcher.report.run import read_run
from support.report_runs import rich_run, whole

HOSTILE = '</script><script>document.title="taken"</script><img src=x onerror=alert(1)>"\'{{7*7}}<!--'
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Outline(HTMLParser):
    """Which elements there are, and whether each is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    @override
    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    return parsed


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run_dir = rich_run(tmp_path_factory.mktemp("report") / "rich", 100)
    return run_page(read_run(run_dir), run_dir.report, 2.0)


def test_every_element_is_closed_and_every_id_is_there_once(page: str) -> None:
    parsed = outline(page)
    assert (parsed.wrong, parsed.open) == ([], [])
    ids = [attributes["id"] for _, attributes in parsed.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [
        part for _, attributes in parsed.found for key in ("aria-labelledby", "aria-describedby")
        for part in (attributes.get(key) or "").split()
    ]  # fmt: skip
    assert set(named) <= set(ids)
    targets = [str(a["href"])[1:] for tag, a in parsed.found if tag == "a" and str(a["href"]).startswith("#")]
    assert set(targets) <= set(ids)
    assert len(targets) > 5


def test_the_policy_names_the_one_script_and_the_one_style(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    for name, pattern in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        (text,) = re.findall(pattern, page, re.DOTALL)
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_nothing_is_loaded_from_elsewhere_and_no_style_stands_in_an_element(page: str) -> None:
    for tag, attributes in outline(page).found:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("src") or "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
        assert tag not in ("link", "iframe", "object", "base", "form")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_headings_tables_and_landmarks_are_what_they_are(page: str) -> None:
    found = outline(page).found
    tags = [tag for tag, _ in found]
    assert tags.count("h1") == tags.count("main") == tags.count("header") == tags.count("footer") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in found if tag == "th")
    assert all("alt" in attributes for tag, attributes in found if tag == "img")
    plots = [attributes for _, attributes in found if attributes.get("class") == "plot"]
    assert all(plot["tabindex"] == "0" and plot["aria-describedby"] for plot in plots)


def test_a_strangers_texts_stay_texts(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "run", 20, [HOSTILE] * 3)
    details = json.loads(run_dir.details("test").read_text())
    for mistake in details["mistakes"]:
        mistake |= {"key": HOSTILE, "shard": HOSTILE, "thumbnail": HOSTILE}
    whole(run_dir.details(HOSTILE.replace("/", "")), details | {"split": HOSTILE})
    known = re.compile(r'"(node-a|damaged|skip|mine.yaml|main|loss is[^"]*|rank 3[^"]*)"')
    for file in (run_dir.starts, run_dir.data_errors, run_dir.bad_steps, run_dir.rank_history, run_dir.launches):
        file.write_text(known.sub(lambda _: json.dumps(HOSTILE), file.read_text()))
    with run_dir.metrics.open("a") as file_:
        line = {"kind": "evaluation", "attempt": 2, "time": 1.0, "step": 20, "split": HOSTILE, "loss": 1.0, "top1": 0.5}
        file_.write(json.dumps(line) + "\n")
    text = run_page(read_run(run_dir), run_dir.report)
    parsed = outline(text)
    assert (parsed.wrong, parsed.open) == ([], [])
    assert [tag for tag, _ in parsed.found].count("script") == 2
    assert not [attributes for _, attributes in parsed.found if "onerror" in attributes]
    assert "49" not in re.findall(r"taken for ([^<]*)", text)


def test_links_lead_to_files_from_where_the_page_lies(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "runs" / "a", 20)
    (run_dir.root / "pruning.json").write_text("{}")
    (run_dir.root / "sensitivity-top 1.html").write_text("")
    stage = rich_run(run_dir.stage(1).root, 20)
    stage.report.write_text("")
    (tmp_path / "elsewhere").mkdir()
    for page in (run_dir.report, tmp_path / "elsewhere" / "page.html"):
        text = run_page(read_run(run_dir), page)
        addresses = re.findall(r'<li><a href="([^#"]+)"', text)
        assert len(addresses) == 3
        assert all((page.parent / address.replace("%20", " ")).exists() for address in addresses)


def test_a_running_run_reloads_itself_and_a_finished_one_does_not(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'id="reload"' not in page
    run_dir = rich_run(tmp_path / "on", 20)
    run_dir.result.unlink()
    run_dir.lock.write_text("process 1 on elsewhere")
    run_dir.metrics.touch()
    assert 'id="reload"' in run_page(read_run(run_dir), run_dir.report)
