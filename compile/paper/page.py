"""The page as Markdown, as one HTML file that needs no other, and as JSON.

HTML is made of the Markdown, by markdown-it, so it says the same. Its plots are in the file.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment
from markdown_it import MarkdownIt
from markupsafe import Markup

from compile.paper.collect import collect
from compile.paper.inputs import Inputs
from compile.paper.plots import write_plots
from compile.paper.records import PaperReport, Section, Source, Table
from compile.paper.suite import write_suite
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.pages import markdown_table

NAME, TEMPLATE = "report", "page.html"


def write_report(inputs: Inputs, dataset: str, out: Path) -> PaperReport:
    """Write report.md, report.html, report.json, the suite's JSON and all plots; return the report.

    dataset: name of the measured text's data in the suite's JSON. out: a folder that exists.
    """
    report = collect(inputs)
    write_plots(inputs, out)
    markdown = to_markdown(report)
    write_atomically(out / f"{NAME}.md", markdown)
    write_atomically(out / f"{NAME}.html", to_html(report, markdown, out))
    write_atomically(out / f"{NAME}.json", report.model_dump_json(indent=1) + "\n")
    write_suite(inputs, dataset, out)
    return report


def to_markdown(report: PaperReport) -> str:
    """Return the page; sources are numbered in the order in which rows name them."""
    used = dict.fromkeys(name for section in report.sections for name in section.sources())
    marks = {name: f"[{index}]" for index, name in enumerate(used, start=1)}
    lines = [
        f"# Figures of {report.model}",
        "",
        f"Made by `{report.command}` on {report.made}: {describe(report.machine)}. A number in "
        "square brackets names the command that a row comes from, below its table.",
    ]
    if not report.quiet:
        lines += [
            "",
            f"**The machine was not quiet**: its load average was {report.machine.load_average:g} "
            f"on {report.machine.cores} cores before anything was measured. Seconds, core-seconds "
            "and cost are larger than on a quiet one; do not publish them.",
        ]
    for section in report.sections:
        lines += ["", *_section(section, report.sources, marks)]
    return "\n".join([*lines, ""])


def to_html(report: PaperReport, markdown: str, folder: Path) -> str:
    """Return the page as one file. folder: where the plots are."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _open_table)
    parser.add_render_rule("table_close", _close_table)
    tokens = parser.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                picture = (folder / str(child.attrs["src"])).read_bytes()
                encoded = base64.b64encode(picture).decode()
                child.attrs["src"] = f"data:image/png;base64,{encoded}"
    body = parser.renderer.render(tokens, parser.options, {})
    template = files("compile.paper").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True)
    page = environment.from_string(template)
    return page.render(title=f"Figures of {report.model}", body=Markup(body))


def describe(machine: Machine) -> str:
    """Return machine, versions, commit and date in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.hardware}, load {machine.load_average:g}; {versions}; commit {machine.commit}, "
        f"{machine.date}"
    )


def _section(section: Section, sources: dict[str, Source], marks: dict[str, str]) -> Iterator[str]:
    yield f"## {section.title}"
    for paragraph in section.text:
        yield from ("", paragraph)
    for table in section.tables:
        yield from ("", *_table(table, marks))
    yield ""
    for name in section.sources():
        yield f"- {marks[name]} {_source(sources[name])}"
    for plot in section.plots:
        yield from (
            "",
            f"![{plot.caption}]({plot.name}.png)",
            "",
            f"*{plot.caption}* For print: `{plot.name}.pdf`.",
        )


def _table(table: Table, marks: dict[str, str]) -> list[str]:
    rows = [[*(_cell(cell.text) for cell in row.cells), marks[row.source]] for row in table.rows]
    return markdown_table([*table.head, "from"], rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _source(source: Source) -> str:
    command = f"`{source.command}`" if source.command else ""
    machine = "" if source.machine is None else describe(source.machine)
    if command and source.machine is None:
        return f"Not run yet: {command} gives it."
    line = "; ".join(filter(None, (command, machine)))
    return " ".join(filter(None, (line and f"{line}.", source.note)))


def _open_table(*_: object) -> str:
    """Let a table that is wider than the window scroll by itself."""
    return '<div class="table" tabindex="0" role="region" aria-label="table"><table>\n'


def _close_table(*_: object) -> str:
    return "</table></div>\n"
