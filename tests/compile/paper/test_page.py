"""The page for a paper, of stored results: its numbers, where each is from, its three forms."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from compile.paper.collect import collect
from compile.paper.page import to_html, to_markdown, write_report
from compile.paper.records import PaperReport, Section
from tests.compile.paper.stored import MACHINE, inputs, measured, predictions, sentence


def section(report: PaperReport, title: str) -> Section:
    return next(section for section in report.sections if section.title == title)


def table(report: PaperReport, title: str, index: int = -1) -> dict[str, tuple]:
    """Rows of a table by their first cell."""
    rows = section(report, title).tables[index].rows
    return {row.cells[0].text: row.cells[1:] for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it."""
    out = tmp_path_factory.mktemp("report")
    write_report(inputs(out), "sst2", out)
    return out


@pytest.fixture(scope="module")
def report(folder: Path) -> PaperReport:
    return PaperReport.model_validate_json((folder / "report.json").read_text())


def test_seconds_are_medians_of_what_each_process_took(report: PaperReport) -> None:
    rows = table(report, "Latency by stage")
    total = rows["from encryption to the logits"][0]
    assert (total.value, total.low, total.high, total.n) == pytest.approx((6.5, 5.5, 7.5, 3))
    assert rows["worker: layer0.attend"][0].value == 3.0
    assert rows["worker: the rest"][0].value == pytest.approx(6.0 - 4.5)
    assert rows["predicted: lookups times the time of one"][1].text == "85%"
    assert sum(cells[1].value for name, cells in rows.items() if ": " in name[:8]) == pytest.approx(
        1, abs=1e-3
    )
    assert "3 of 3 labels are those" in section(report, "Latency by stage").text[0]


def test_bytes_take_as_long_as_a_line_needs(report: PaperReport) -> None:
    rows = table(report, "Bytes on the wire")
    keys, there_and_back = (
        rows["evaluation keys, once for each client"],
        rows["one sentence, there and back"],
    )
    assert [cell.value for cell in keys] == pytest.approx([32e6, 25.6, 2.56])
    assert there_and_back[0].value == 48_500
    assert rows["that and its computation"][1].value == pytest.approx(6.5 + 8 * 48_500 / 1e7)


def test_cost_is_that_of_the_processors_that_are_reserved(report: PaperReport) -> None:
    rows = table(report, "Cost of 1,000 sentences")
    assert rows["core-seconds reserved: processors times seconds"][0].value == 1000 * 2 * 6.0
    assert rows["core-seconds used by the worker's threads"][0].value == 9000
    assert rows["cost"][0].value == pytest.approx(12000 / 3600 * 0.05)
    assert rows["cost"][0].unit == "EUR"


def test_fewer_errors_cost_what_their_complexity_says(report: PaperReport) -> None:
    rows = table(report, "Failure probability and its price")
    assert rows["2^-20, these circuits"][1].value == pytest.approx(1e11 * 1e-10)
    assert rows["2^-40"][2].text == "1.50"


def test_accuracies_have_intervals(report: PaperReport) -> None:
    rows = table(report, "Accuracy")
    for name, value, low in (
        ("decrypted", 0.9, 0.5958),  # Wilson's of 9 of 10
        ("integer model, noise drawn 3 times", 0.75, 0.6857),  # of 150 of 200
    ):
        cell = rows[name][0]
        assert (cell.value, round(cell.low, 4)) == (value, low)
    assert rows["labels that encryption changed"][0].value == 1


def test_every_row_names_a_command_or_a_publication(report: PaperReport) -> None:
    for part in report.sections:
        for one in part.tables:
            for row in one.rows:
                assert len(row.cells) == len(one.head)
                source = report.sources[row.source]
                assert source.command.startswith("fhe-inhibitor ") or "https://" in source.note
                assert source.machine is None or source.machine == MACHINE
    ours = {row.source for row in section(report, "Accuracy").tables[0].rows}
    assert all(report.sources[name].machine for name in ours)


def test_what_was_not_measured_is_said_with_its_command() -> None:
    report = collect(
        inputs(measured=measured(lookup_s={}), predictions=predictions(sentence_s=None))
    )
    rows = section(report, "Accuracy").tables[0].rows
    assert [row.cells[1].text for row in rows] == ["not measured"] * 2
    page = to_markdown(report)
    for words in (
        "Not run yet: `fhe-inhibitor evaluate --model tiny --data FILE.tsv --tokens 4` gives it.",
        "`fhe-inhibitor evaluate --mode execute --model tiny --data FILE.tsv --tokens 4 --out "
        "FILE.jsonl` gives it.",
        "| one lookup, all cores used | not measured |",
        "Energy can't be read here: there is no counter.",
        "add --price '0.05 EUR'",
    ):
        assert words in page
    assert "predicted: lookups" not in page and "accuracy.png" not in page


def test_energy_is_a_median_where_it_can_be_read() -> None:
    runs = tuple(sentence(joules=joules) for joules in (40.0, 60.0, 50.0))
    report = collect(inputs(measured=measured(sentences=runs, no_energy="")))
    assert table(report, "Energy")["one sentence, by the worker"][0].text == "50 J (40 to 60)"


@pytest.mark.parametrize(("load", "quiet"), [(0.9, True), (7.0, False)])
def test_a_busy_machine_is_told(load: float, quiet: bool) -> None:
    machine = MACHINE.model_copy(update={"load_average": load})
    report = collect(inputs(machine=machine))
    assert report.quiet is quiet
    assert (
        "**The machine was not quiet**: its load average was 7 on 2" in to_markdown(report)
    ) is (not quiet)


class Cells(HTMLParser):
    """Collects the text of table cells, and what the page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.loaded: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag in ("td", "th")
        if self._inside:
            self.cells.append("")
        given = dict(attrs)
        self.loaded += [given[name] or "" for name in ("src", "srcset", "data") if name in given]
        if tag in ("link", "script", "iframe"):
            self.loaded.append(tag)

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def test_markdown_and_html_have_the_same_cells_and_html_needs_no_other_file(
    folder: Path, report: PaperReport
) -> None:
    page = Cells()
    content = (folder / "report.html").read_text()
    page.feed(content)
    lines = [x for x in (folder / "report.md").read_text().splitlines() if x.startswith("| ")]
    cells = [cell.strip() for line in lines for cell in line.strip("|").split("|")]
    assert page.cells == cells and len(cells) > 200
    texts = [
        cell.text for p in report.sections for t in p.tables for r in t.rows for cell in r.cells
    ]
    assert len(texts) > 200 and set(texts) <= set(cells)
    assert len(page.loaded) == len(list(report.plots())) == 4
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.loaded)
    assert "url(" not in content and "@import" not in content
    assert "width=device-width" in content and "@media print" in content


def test_what_users_give_is_no_markup(tmp_path: Path) -> None:
    command = "fhe-inhibitor report --text '<script>alert(1)</script>'"
    report = collect(inputs(model="<b>x|y</b>", command=command))
    for plot in report.plots():
        (tmp_path / f"{plot.name}.png").write_bytes(b"")
    page = to_html(report, to_markdown(report), tmp_path)
    assert "<script>" not in page and "<b>" not in page
    assert "&lt;b&gt;x|y&lt;/b&gt;" in page


def test_plots_are_for_print(folder: Path, report: PaperReport) -> None:
    for plot in report.plots():
        picture = imread(folder / f"{plot.name}.png")
        assert picture.shape[1] == 990  # 3.3 inches of 300 dots
        assert len(np.unique(picture)) > 10
        content = (folder / f"{plot.name}.pdf").read_bytes()
        width = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)
        assert width and float(width[1]) == pytest.approx(3.3 * 72, abs=0.1)
        assert b"/FontFile2" in content and b"/Type3" not in content


def test_json_has_every_single_time(folder: Path) -> None:
    content = json.loads((folder / "report.json").read_text())
    assert [run["compute_s"] for run in content["measured"]["sentences"]] == [6.0, 5.0, 7.0]
    schema = PaperReport.model_json_schema()
    assert set(schema["required"]) <= set(content)
    with pytest.raises(ValueError, match="extra"):
        PaperReport.model_validate(content | {"extra": 1})


def test_a_table_of_one_run_says_that_its_range_is_no_interval() -> None:
    report = collect(inputs(measured=measured(sentences=(sentence(),))))
    text = section(report, "Latency by stage").text[0]
    assert "1 times" not in text and "once" in text
    assert "no 95% interval" in text
