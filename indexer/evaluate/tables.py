"""An evaluation as tables of text; a rich console prints them as they are."""

from dataclasses import dataclass

from rich.table import Table

from indexer.evaluate.collection import RANDOM_ORDER
from indexer.evaluate.estimates import Estimate
from indexer.evaluate.result import Findings, GroupResult, WayResult


@dataclass(frozen=True)
class TextTable:
    """A table of text; the caption says what a reader must know."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __rich__(self) -> Table:
        """The table for a rich console."""
        table = Table(title=self.title, caption=self.caption or None)
        figures_from = 1 if len(self.columns) > 2 else 2  # two columns are a name and what is said of it
        for number, column in enumerate(self.columns):
            table.add_column(column, overflow="fold", justify="right" if number >= figures_from else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def tables(findings: Findings) -> tuple[TextTable, ...]:
    """All tables of an evaluation, the most telling first."""
    found = [_ways(findings), _precision(findings), _labels(findings), _groups(findings)]
    if findings.index_recall:
        rows = tuple((f"recall@{k}", f"{value:.4f}") for k, value in findings.index_recall.items())
        caption = "Share of the exact neighbours that the approximate index finds; in no other figure."
        found.append(TextTable("Index against exact search", ("figure", "value"), rows, caption))
    return (*found, _fits(findings), _counts(findings))


def interval(estimate: Estimate) -> str:
    """Write a figure with its interval: ``0.842 (0.79 to 0.87)``."""
    if estimate.value is None:
        return "not measured"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _stacked(estimate: Estimate) -> str:
    """Write a figure and its interval below it: columns stay narrow."""
    return interval(estimate).replace(" (", "\n").removesuffix(")")


def _title(one: WayResult, findings: Findings) -> str:
    return one.title + (" *" if one.key == findings.headline else "")


def _ways(findings: Findings) -> TextTable:
    rows = tuple(
        (
            _title(one, findings),
            _stacked(one.macro["mAP"]),
            "" if one.key == findings.headline else _stacked(one.headline_minus["macro mAP"]),
            _stacked(one.micro["mAP"]),
        )
        for one in findings.ways
    )
    columns = ("ranked by", "macro mAP", "* ahead, macro mAP", "micro mAP")
    caption = "Macro: mean over labels of the mean over each label's queries. Micro: mean over queries."
    return TextTable("Retrieval of other patients' items with the same label", columns, rows, caption)


def _precision(findings: Findings) -> TextTable:
    names = [name for name in findings.ways[0].micro if name.startswith("P@")]
    rows = tuple((_title(one, findings), *(_stacked(one.micro[name]) for name in names)) for one in findings.ways)
    return TextTable(
        "Share of right ones among the first", ("ranked by", *(f"micro {name}" for name in names)), rows
    )


def _fits(findings: Findings) -> TextTable:
    rows = tuple((_title(one, findings), one.fit) for one in findings.ways)
    return TextTable("What was fitted to what", ("ranked by", "fitted to"), rows)


def _labels(findings: Findings) -> TextTable:
    headline, chance = findings.way(findings.headline), findings.way(RANDOM_ORDER)
    expected = {one.label: one.figures["mAP"] for one in chance.labels}
    first = next(name for name in headline.micro if name.startswith("P@"))
    rows = tuple(
        (
            one.label,
            str(one.queries),
            str(one.patients),
            _stacked(one.figures["mAP"]),
            _stacked(one.figures[first]),
            _plain(expected[one.label]),
        )
        for one in headline.labels
    )
    columns = ("label", "queries", "patients", "mAP", first, "mAP by\nchance")
    return TextTable(f"By label: {headline.title}", columns, rows)


def _groups(findings: Findings) -> TextTable:
    first = next(name for name in findings.ways[0].micro if name.startswith("P@"))

    def row(one: GroupResult) -> tuple[str, ...]:
        return (
            f"{one.by}: {one.group}",
            str(one.queries),
            str(one.patients),
            _stacked(one.headline["mAP"]),
            _stacked(one.headline[first]),
            _plain(one.random_order["mAP"]),
        )

    title = f"By group of the query: {findings.way(findings.headline).title}"
    columns = ("group", "queries", "patients", "micro mAP", f"micro {first}", "micro mAP\nby chance")
    caption = "Galleries hold all groups. Without an interval: one patient."
    return TextTable(title, columns, tuple(row(one) for one in findings.groups), caption)


def _counts(findings: Findings) -> TextTable:
    counts = findings.counts
    rows: list[tuple[str, str]] = list(findings.facts.items())
    rows += [
        ("items, labels", f"{counts.items}, {counts.labels}"),
        ("queries, patients", f"{counts.queries}, {counts.patients}"),
        ("mean gallery", f"{counts.mean_gallery:.1f} items"),
        ("not asked: nothing relevant of another patient", str(counts.unanswerable)),
    ]
    rows += [(f"left out: {reason}", str(count)) for reason, count in counts.excluded.items()]
    rows += [("warning", text) for text in findings.warnings]
    return TextTable("What was measured", ("", ""), tuple(rows))


def _plain(estimate: Estimate) -> str:
    return "not measured" if estimate.value is None else f"{estimate.value:.3f}"
