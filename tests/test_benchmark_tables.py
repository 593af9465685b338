"""Rows of the benchmark as Markdown, CSV, page and block of the README."""

import csv
import io

import pytest
from benchmark_fixtures import SIZES, lines_of, row, three_seeds
from report_fixtures import Page, assert_golden

from benchmarks.compare import table
from benchmarks.compare.page import html
from benchmarks.compare.results import families


def test_markdown_gives_mean_sd_and_number_of_seeds():
    text = table.markdown(families(three_seeds(), SIZES))
    (a,), (b,) = lines_of(text, "a"), lines_of(text, "b")
    assert a == [
        *("a", "0.700 +- 0.100", "+20.0", "+20.0 to +20.0", "0.031", "0.062"),  # Holm: two methods
        *("0.700 +- 0.100", "+20.0", "+20.0 to +20.0", "0.062", "2.0", "0 of 18", "0 of 0", "3", "2.0", "100"),
    ]
    assert b[1:3] == ["0.400 (1 seed)", "-10.0"]
    assert b[13] == "1"


def test_nothing_is_the_best_where_there_was_no_validation(tmp_path):
    found = families([row(name, [0.5] * 6, best_in_validation=None) for name in ("supervised", "a")], SIZES)
    (a,) = lines_of(table.markdown(found), "a")
    assert a[1:3] == ["0.500 (1 seed)", "0.0"]
    assert a[6:10] == ["-"] * 4
    (tmp_path / "page.html").write_text(html(found), encoding="utf-8")
    page = Page(tmp_path / "page.html")
    (line,) = [cells for cells in page.rows("screen: acdc, 7 labelled: the network that serves") if cells[0] == "a"]
    assert (line[2], line[7:12]) == ("0.500 (1 seed)", ["\N{EN DASH}"] * 5)
    assert [cells[3:5] for cells in page.rows("Every run")[2:]] == [["0.500", "\N{EN DASH}"]] * 2


def test_csv_has_a_line_a_file_of_weights_and_one_for_what_is_missing():
    rows = [*three_seeds(), row("supervised", [0.5] * 6, task="lgg", labels="5")]
    lines = list(csv.DictReader(io.StringIO(table.csv_text(families(rows, SIZES)))))
    a = next(line for line in lines if (line["name"], line["weights"]) == ("a", "model_final"))
    assert float(a["dice"]) == pytest.approx(0.7)
    assert float(a["difference"]) == pytest.approx(0.2)
    assert float(a["difference_sd"]) == pytest.approx(0.1)
    assert (a["seeds"], a["which_seeds"], a["network"], a["baseline"]) == ("3", "0 1 2", "network", "supervised")
    assert (a["seconds"], a["validation_seconds"], a["peak_mb"], a["commits"]) == ("120.0", "30.0", "100", "abc")
    missing = [line["name"] for line in lines if line["seeds"] == "0"]
    assert missing == ["a", "b"]
    assert len(lines) == 2 * 3 + 2 + 2  # of acdc; of lgg


@pytest.fixture(scope="module")
def source():
    """The page of three tasks: one of three seeds, one with a missing method and local changes, one that knows contrasts."""
    rows = [*three_seeds(), row("supervised", [0.5] * 6, task="lgg", labels="5")]
    rows.append(row("b", [0.6] * 6, task="lgg", labels="5", commit="abc+", steps=8))
    contrasts = [0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4]
    rows.append(row("supervised", [0.5] * 8, task="phantom", labels="", contrasts=contrasts))
    rows.append(row("a", [0.6, 0.8, 0.6, 0.8, 0.6, 0.6, 0.6, 0.6], task="phantom", labels="", contrasts=contrasts))
    return html(families(rows, SIZES))


def test_page_of_the_benchmark_is_the_golden_one(source):
    assert_golden(source, "compare")


def test_page_is_whole_and_fetches_nothing(source, tmp_path):
    (tmp_path / "compare.html").write_text(source, encoding="utf-8")
    page = Page(tmp_path / "compare.html")
    assert all(a["href"].startswith("#") for _, a in page.tags if "href" in a)
    assert not any("src" in a for _, a in page.tags)
    for words in (
        "difference, Dice points; dashed: the baseline",
        "validation Dice",
        "minutes a run",
    ):  # in the figures
        assert words in page.text
    assert source.count("<svg") == 3 + 3 + 3


def test_page_of_nothing_is_a_page():
    assert "0 runs." in html(families([], SIZES))


def test_the_summary_is_compact_and_marks_what_survives_the_correction():
    rows = [row("supervised", [0.5] * 8), row("a", [0.6] * 8), row("b", [0.6, 0.4] * 4)]
    rows.append(row("supervised", [0.5] * 5, task="lgg", labels="5"))
    rows.append(row("b", [0.6] * 5, task="lgg", labels="5"))
    text = table.summary(families(rows, SIZES))
    (a,), (b,) = lines_of(text, "`a`"), lines_of(text, "`b`")
    assert a[1:] == ["0.600; +10.0\\* (+10.0 to +10.0); 1 seed", "missing"]  # 2 / 2**8 twice
    assert b[1].startswith("0.500; 0.0 (")
    assert b[2] == "0.600; +10.0 (+10.0 to +10.0); 1 seed"
    assert lines_of(text, "method")[0][1:] == ["screen: acdc, 7 labelled", "screen: lgg, 5 labelled"]


def test_the_summary_stands_between_the_markers_and_can_be_written_again():
    text = "before\n<!-- compare -->\nold\n<!-- /compare -->\nafter\n"
    once = table.with_block(text, "new", "results.md")
    assert once == "before\n<!-- compare -->\nnew\n<!-- /compare -->\nafter\n"
    assert table.with_block(once, "new", "results.md") == once


@pytest.mark.parametrize("text", ["", "<!-- compare -->", "<!-- /compare --><!-- compare -->"])
def test_a_page_without_markers_is_refused(text):
    with pytest.raises(
        ValueError, match=r"results\.md needs the lines <!-- compare --> and <!-- /compare --> once each"
    ):
        table.with_block(text, "new", "results.md")
