"""An evaluation as tables of text; a rich console prints them as they are."""

from dataclasses import dataclass

from rich.table import Table

from indexer.evaluate.collection import RANDOM_ORDER
from indexer.evaluate.estimates import Estimate
from indexer.evaluate.result import Findings, GroupResult


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
        for number, column in enumerate(self.columns):
            table.add_column(column, overflow="fold", justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table


def tables(findings: Findings) -> tuple[TextTable, ...]:
    """All tables of an findings, the most telling first."""
    found = [_ways(findings), _labels(findings), _groups(findings), _counts(findings)]
    if findings.index_recall:
        rows = tuple((f"recall@{k}", f"{value:.4f}") for k, value in findings.index_recall.items())
        caption = "Share of the exact neighbours that the approximate index finds; in no other figure."
        found.insert(3, TextTable("Index against exact search", ("figure", "value"), rows, caption))
    return tuple(found)


def interval(estimate: Estimate) -> str:
    """Write a figure with its interval: ``0.842 (0.79 to 0.87)``."""
    if estimate.value is None:
        return "not measured"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _ways(findings: Findings) -> TextTable:
    micro = [name for name in findings.ways[0].micro if not name.startswith(("R@", "nDCG@"))]
    rows = tuple(
        (
            one.title + (" *" if one.key == findings.headline else ""),
            interval(one.macro["mAP"]),
            *(interval(one.micro[name]) for name in micro),
            "" if one.key == findings.headline else interval(one.headline_minus["macro mAP"]),
            one.fit,
        )
        for one in findings.ways
    )
    columns = ("ranked by", "macro mAP", *(f"micro {name}" for name in micro), "* ahead, macro mAP", "fitted to")
    caption = "Macro: mean over labels of the mean over each label's queries. Micro: mean over queries."
    return TextTable("Retrieval of other patients' items with the same label", columns, rows, caption)


def _labels(findings: Findings) -> TextTable:
    headline, chance = findings.way(findings.headline), findings.way(RANDOM_ORDER)
    expected = {one.label: one.figures["mAP"] for one in chance.labels}
    first = next(name for name in headline.micro if name.startswith("P@"))
    rows = tuple(
        (
            one.label,
            str(one.queries),
            str(one.patients),
            interval(one.figures["mAP"]),
            interval(one.figures[first]),
            _plain(expected[one.label]),
        )
        for one in headline.labels
    )
    columns = ("label", "queries", "patients", "mAP", first, "mAP by chance")
    return TextTable(f"By label: {headline.title}", columns, rows)


def _groups(findings: Findings) -> TextTable:
    first = next(name for name in findings.ways[0].micro if name.startswith("P@"))

    def row(one: GroupResult) -> tuple[str, ...]:
        return (
            f"{one.by}: {one.group}",
            str(one.queries),
            str(one.patients),
            interval(one.headline["mAP"]),
            interval(one.headline[first]),
            _plain(one.random_order["mAP"]),
        )

    title = f"By group of the query: {findings.way(findings.headline).title}"
    columns = ("group", "queries", "patients", "micro mAP", f"micro {first}", "micro mAP by chance")
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
