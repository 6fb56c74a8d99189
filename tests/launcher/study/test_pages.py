"""Pages and plots: well-formed, self-contained, every point inside the picture, strangers' texts escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.targets import METRICS
from megabatch.launcher.study import curve
from megabatch.launcher.study.ablation_page import _panel, span
from megabatch.launcher.study.ablation_report import average, difference, ordered
from megabatch.launcher.study.curve import Curve
from megabatch.launcher.study.effects import CellResult, effect, spread
from megabatch.launcher.study.page import document, header, table

points = st.lists(
    st.tuples(st.floats(1e-6, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30, unique_by=lambda point: point[0]
).map(sorted)


@given(points, st.booleans())
def test_every_point_lies_inside_the_picture(found: list[tuple[float, float]], from_zero: bool) -> None:
    if from_zero:
        found = [(x, abs(y)) for x, y in found]
    drawn = curve.svg(Curve(found, "x", "y", [(found[0][0], "<mark>")], from_zero=from_zero), "a < b")
    root = ElementTree.fromstring(drawn)
    (line,) = [element for element in root if element.get("class") == "line"]
    places = [tuple(map(float, pair.split(","))) for pair in (line.get("points") or "").split()]
    assert len(places) == len(found)
    assert all(0 <= x <= 760 and 0 <= y <= 360 for x, y in places)


def test_the_text_plot_shows_highest_and_lowest_point_and_the_marks() -> None:
    drawn = curve.text(
        Curve([(1.0, 0.0), (10.0, 1.0), (100.0, 0.5)], "rate", "loss", [(10.0, "best")], from_zero=True), 21
    )
    rows = drawn.splitlines()
    assert rows[0] == "loss over rate"
    assert [row.index("•") - 12 for row in rows if "•" in row] == [10, 20, 0]
    assert next(row for row in rows if "^" in row).index("^") - 12 == 10


def test_panels_put_each_seed_at_its_place_and_escape_labels() -> None:
    effects = {"test": effect([0.01, 0.02, 0.03])}
    results = [CellResult("model.name=<b>", (), {"test": spread([0.5])}, effects)]
    drawn = _panel(results, "test")
    assert "<b>" not in drawn
    assert "&lt;b&gt;" in drawn
    low, high = span(list(effects.values()), METRICS["top1"])
    expected = [100 * (value - low) / (high - low) for value in (1.0, 2.0, 3.0)]
    found = [float(x) for x in re.findall(r'class="seed" cx="([\d.]+)%"', drawn)]
    assert all(abs(a - b) < 0.01 for a, b in zip(found, expected, strict=True))


def test_numbers_stand_in_the_page_as_they_are_and_the_lower_error_first() -> None:
    results = [
        CellResult(label, (), {"test": spread([0.5])}, {"test": effect([0.01 * mean, 0.012 * mean], False)}, "mae")
        for label, mean in (("worse", 1.0), ("better", -1.0))
    ]
    drawn = _panel(results, "test")
    assert drawn.index("better") < drawn.index("worse")
    assert "+0.011, " in drawn
    assert "-0.011 MAE, " in drawn
    assert [average(METRICS["mae"], results[0].values["test"]), ordered([results[0], *results])[1].label] == [
        "0.5", "better",
    ]  # fmt: skip
    assert difference(METRICS["mae"], results[1].effects["test"]).startswith("-0.011 ± 0.0127")


def test_a_page_loads_nothing_and_escapes_texts() -> None:
    page = document("a <t>", header("<h>", [("n", "<f>")]) + table(["c"], [["<r>"]]))
    assert not re.search(r"<(script|link|img|iframe)|https?:|url\(", page)
    assert all(text not in page for text in ("<t>", "<h>", "<f>", "<r>"))
    assert "default-src 'none'" in page
