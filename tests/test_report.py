"""What every page of a report keeps: it fetches nothing, names what it shows, takes names as data; its commands."""

import sys

import pytest
from report_fixtures import Page, compared, evaluate, write_metrics, write_run, write_two

from custom.files import FileError
from custom.report import page_of_evaluation, write_report
from custom.report.__main__ import main
from custom.report.page import render
from custom.report.tables import Cell, Column, Table, interval, number


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of :func:`write_run`, with learning curves."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    write_report(folder, "My <run>", write_metrics(folder / "metrics.csv"))
    return Page(folder / "report.html")


@pytest.fixture
def two(tmp_path):
    return write_two(tmp_path)


def test_page_is_one_whole_file_that_fetches_nothing(page):
    addresses = [a for _, attributes in page.tags for k, a in attributes.items() if k in ("src", "href", "xlink:href")]
    assert addresses
    assert all(a.startswith(("data:image/", "#")) for a in addresses)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(http" not in page.source
    assert "@import" not in page.source
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_page_names_every_table_head_and_figure_for_those_who_do_not_see_it(page):
    count = sum(tag == "table" for tag, _ in page.tags)
    assert len(page.tables) == count == sum(tag == "caption" for tag, _ in page.tags)
    assert all(page.tables)
    assert all(a["scope"] in ("col", "colgroup", "row") for tag, a in page.tags if tag == "th")
    assert all(a["role"] == "img" and a["aria-label"] for tag, a in page.tags if tag == "svg")
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    assert next(a for tag, a in page.tags if tag == "html")["lang"] == "en"


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a[key][1:] in ids for _, a in page.tags for key in ("href", "xlink:href") if key in a)


def test_figures_follow_the_ink_of_the_page(page):
    source = page.source
    figures = source[source.index("<svg") : source.rindex("</svg>")]
    assert "currentColor" in figures
    assert "#000000" not in figures
    assert "#ffffff" not in figures
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_the_same_files_make_the_same_page(page):
    again = write_report(page.path.parent, "My <run>", page.path.parent / "metrics.csv")
    assert again == page.path
    assert again.read_text(encoding="utf-8") == page.source


def test_heads_point_to_their_column_and_numbers_carry_their_value(page):
    """What the script sorts by: under heads of two rows the place of a head is not that of its column."""
    rows = page.cells("model: 5 cases, worst first")
    heads = {int(a["data-column"]): text for row in rows[:2] for text, a in row if "data-column" in a}
    assert [heads[i] for i in sorted(heads)] == [
        *("case", "patient", "scanner", "mean", *["A", "B"] * 3),
        *("boundary Dice", "contrast", "missed", "false alarms"),
    ]
    assert [a.get("aria-sort") for row in rows[:2] for _, a in row].count("ascending") == 1
    bad, failing = rows[2], rows[3]
    assert [float(a["data-value"]) for _, a in bad[3:6]] == pytest.approx([0.3, 0.5, 0.1])
    valued = [i for i, (_, a) in enumerate(failing) if "data-value" in a]
    assert valued == [3, 4, 5, 6, 8, 10, 12, 13]  # not the failed distances, and no contrast without a picture
    assert all("data-value" not in a for _, a in bad[:2])


NASTY = ["<script>alert(1)</script>", "a \"b\" & 'c' $x^$", "_x"]


def test_names_are_data(tmp_path):
    case = "\"><img src=x onerror=alert(1)> 'q' {{ title }} {% raw %}"
    attributes = [{"<b>site</b>": "</td><i>"}, {"<b>site</b>": "$\\frac$"}]
    evaluate(tmp_path, {case: (1, 2, 3), "c1": (3, 3, None)}, NASTY, attributes=attributes)
    page = Page(write_report(tmp_path, "<script>title</script>"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not {"b", "i"} & {tag for tag, a in page.tags if a.get("class") is None and "style" not in a}
    assert all("onerror" not in a for _, a in page.tags)
    assert page.headings[0] == "<script>title</script>"
    assert [row[0] for row in page.rows("model: mean over cases")[2:5]] == NASTY
    assert case in [row[0] for row in page.rows("model: 2 cases")[2:]]
    svg = page.source[page.source.index("<svg") : page.source.index("</svg>")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in svg
    assert "$x^$" in svg  # no formula


def test_names_of_two_are_data(two, tmp_path):
    page = compared(two, tmp_path, ("<script>", "b & 'c' $x^$"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.headings[0] == "b & 'c' $x^$ against <script>"


def test_two_hundred_cases_of_five_classes_stay_a_small_page(tmp_path):
    cases = {f"case_{i:03d}": [i % 9, 3, None, 1, 2] for i in range(200)}
    evaluate(tmp_path, cases, [f"class {i}" for i in range(5)], patients=["p"] * 200, pictures=False)
    path = write_report(tmp_path, "My run")
    assert path.stat().st_size < 2e6
    assert len(Page(path).rows("model: 200 cases")) == 202


@pytest.mark.usefixtures("undrawn")
def test_a_page_that_cannot_be_written_leaves_the_earlier_one(run, monkeypatch):
    earlier = write_report(run, "Earlier").read_text(encoding="utf-8")
    before = sorted(run.iterdir())

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(FileError):
        write_report(run, "Later")
    assert (run / "report.html").read_text(encoding="utf-8") == earlier
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (number(0.12345, 3), Cell("0.123", 0.12345)),
        (number(-0.04, 1), Cell("0.0", -0.04)),  # never -0.0
        (number(2.0, 1, sign=True), Cell("+2.0", 2.0)),
        (number(0.0, 1, sign=True), Cell("0.0", 0.0)),
        (number(None, 1), Cell("\N{EN DASH}")),
        (number(float("nan"), 1), Cell("\N{EN DASH}")),
        (number(float("inf"), 1), Cell("\N{EN DASH}")),
        (interval(0.1, 0.25, 2), Cell("0.10 to 0.25", 0.1)),
        (interval(-0.1, 0.25, 2, sign=True), Cell("-0.10 to +0.25", -0.1)),
        (interval(0.1, None, 2), Cell("\N{EN DASH}")),
    ],
)
def test_what_was_not_measured_has_no_value(cell, expected):
    assert cell == expected


def test_heads_of_one_group_share_a_head(tmp_path):
    columns = [Column(*head) for head in (
        ("case", lambda _: "c", "", True), ("A", lambda _: Cell("1", 1.0), "Dice"), ("B", lambda _: Cell("2", 2.0), "Dice"),
        ("failures", lambda _: Cell("0", 0)),
    )]  # fmt: skip
    (tmp_path / "t.txt").write_text('{% from "blocks.html" import table %}{{ table(it) }}')
    (tmp_path / "t.html").write_text(render("t.txt", tmp_path, it=Table("t", columns, [None])))
    rows = Page(tmp_path / "t.html").cells("t")
    spans = [[(text, a.get("colspan"), a.get("rowspan")) for text, a in row] for row in rows[:2]]
    assert spans == [
        [("case", None, "2"), ("Dice", "2", None), ("failures", None, "2")],
        [("A", None, None), ("B", None, None)],
    ]


@pytest.mark.usefixtures("undrawn")
def test_command_writes_the_page_of_a_run_with_its_curves(run, capsys):
    write_metrics(run.parents[1] / "metrics.csv")
    main([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = Page(run / "report.html")
    assert page.headings[0] == "eval, test"
    assert "Learning curves" in page.headings


@pytest.mark.usefixtures("undrawn")
def test_command_writes_the_page_of_two(two, tmp_path, capsys):
    out = tmp_path / "new" / "two.html"
    main([str(two[0]), str(two[1]), "--names", "a", "b", "--html", str(out)])
    *printed, written = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("No evidence either way") for line in printed)
    assert written == f"Case by case: {out}"
    assert Page(out).headings[0] == "b against a"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "summary.json is not there"),
        (["a", "b", "c"], "give one folder, or two tables of cases"),
        (["a", "b", "--names", "c", "c"], "--names needs two different names"),
    ],
)
def test_command_refuses_in_a_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_report_that_cannot_be_drawn_is_said_in_the_log(run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import of it fails
    with caplog.at_level("INFO"):
        assert page_of_evaluation("models", run.parents[1]) is None
    assert "No report.html is written: import of matplotlib" in caplog.text
    assert not (run / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_the_page_of_an_evaluation_has_the_task_of_its_bundle_and_the_curves_of_its_run(run, tmp_path):
    (tmp_path / "bundle/configs").mkdir(parents=True)
    (tmp_path / "bundle/configs/metadata.json").write_text('{"task": "Hearts"}')
    write_metrics(run.parents[1] / "metrics.csv")
    path = page_of_evaluation(tmp_path / "bundle/models", "eval", "test", tmp_path)
    assert path == run / "report.html"
    assert Page(path).headings[0] == "Hearts, test part"
    assert "Learning curves" in Page(path).headings
    page_of_evaluation("nowhere/models", "eval", "test", tmp_path)
    assert Page(path).headings[0] == "Segmentation, test part"
