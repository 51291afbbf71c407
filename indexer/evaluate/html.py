"""The report: one page that holds everything it shows and asks nothing of any network."""

from html import escape

from indexer.evaluate.collection import RANDOM_ORDER
from indexer.evaluate.result import Findings, Place, WorstQuery
from indexer.evaluate.svg import Bar, bars
from indexer.evaluate.tables import TextTable, interval, tables

_MOST_LABELS = 30
"""A table of first hits larger than this tells nothing."""
_PICTURE_PX = 120
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .85rem; } caption { text-align: left; color: #55626e; }
td, th { border-bottom: 1px solid #d9dfe5; padding: .25rem .6rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } .wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: #1c2733; }
.grid { stroke: #e3e8ec; } .bar { fill: #a9bccd; } .strong { fill: #2f6f9f; } .interval { stroke: #1c2733; }
.reference { stroke: #c2410c; stroke-width: 2; }
.warning { border-left: 4px solid #c2410c; padding: .2rem .8rem; background: #fdf3ee; }
.query { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
figure { margin: 0; padding: .4rem; border: 3px solid #55626e; width: 17rem; font-size: .75rem; }
figure.right { border-color: #2e7d4f; } figure.wrong { border-color: #c2410c; }
figure img { background: #000; image-rendering: auto; margin-right: .2rem; vertical-align: bottom; }
.uid { overflow-wrap: anywhere; color: #55626e; } .some { background: #e7eef4; } .diagonal { background: #d7ebdd; }
@media (prefers-color-scheme: dark) {
  body, svg text { color: #dfe6ec; fill: #dfe6ec; } body { background: #12181e; }
  td, th { border-color: #2b3640; } .grid { stroke: #2b3640; } .interval { stroke: #dfe6ec; }
  .warning { background: #33221a; } .some { background: #22303c; } .diagonal { background: #1f3a2a; }
}
"""


def page(findings: Findings) -> str:
    """The report as HTML: one file, no request to anywhere; UIDs are the only identifiers in it."""
    summary, *others = tables(findings)
    parts = [
        f"<h1>How well similar items are found: {escape(findings.way(findings.headline).title)}</h1>",
        "".join(f'<p class="warning">{escape(text)}</p>' for text in findings.warnings),
        "<h2>Macro mAP, beside what needs no encoder and beside chance</h2>",
        _ways(findings),
        _table(summary),
        "<h2>Average precision by label (mark: chance)</h2>",
        _labels(findings),
        *(_table(one) for one in others),
        _first_hits(findings),
        _worst(findings),
    ]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _ways(findings: Findings) -> str:
    shown = [
        Bar(one.title, one.macro["mAP"], interval(one.macro["mAP"]), strong=one.key == findings.headline)
        for one in findings.ways
    ]
    return bars(shown, "Macro mAP of each way of ranking")


def _labels(findings: Findings) -> str:
    chance = {one.label: one.figures["mAP"].value for one in findings.way(RANDOM_ORDER).labels}
    shown = [
        Bar(one.label, one.figures["mAP"], interval(one.figures["mAP"]), chance[one.label], strong=True)
        for one in findings.way(findings.headline).labels
    ]
    return bars(shown, "Mean average precision of each label")


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{_cell(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide"><table>{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _first_hits(findings: Findings) -> str:
    """Labels of queries against those of their first hits."""
    found = findings.first_hits
    columns = sorted(set(found) | {hit for row in found.values() for hit in row})
    if len(columns) > _MOST_LABELS:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = ""
    for asked in found:
        cells = ""
        for column in columns:
            count = found[asked].get(column, 0)
            kind = "diagonal" if asked == column else "some" if count else ""
            cells += f'<td class="{kind}">{count or ""}</td>'
        rows += f"<tr><td>{escape(asked)}</td>{cells}</tr>"
    return (
        '<h2>First hits</h2><div class="wide"><table><caption>Row: label of the query. Column: label of its first '
        f"hit.</caption><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _worst(findings: Findings) -> str:
    shown = "".join(_query(findings, one) for one in findings.worst)
    return f"<h2>Worst queries</h2><p>Green: shares a label with the query.</p>{shown}" if shown else ""


def _query(findings: Findings, one: WorstQuery) -> str:
    heading = f"query, average precision {one.average_precision:.2f}"
    figures = [_figure(findings, one.place, heading, "")]
    for rank, hit in enumerate(one.hits, start=1):
        kind = "right" if hit.relevant else "wrong"
        figures.append(_figure(findings, hit.place, f"{rank}: similarity {hit.similarity:.2f}", kind))
    return f'<div class="query">{"".join(figures)}</div>'


def _figure(findings: Findings, place: Place, heading: str, kind: str) -> str:
    pictures = findings.pictures.get(place.item, ())
    tallest = max((picture.size_mm[0] for picture in pictures), default=1.0)
    widest = max((picture.size_mm[1] for picture in pictures), default=1.0)
    px_a_mm = _PICTURE_PX / max(tallest, widest)
    images = "".join(
        f'<img alt="" width="{max(1, round(one.size_mm[1] * px_a_mm))}" '
        f'height="{max(1, round(one.size_mm[0] * px_a_mm))}" src="{one.data_uri()}">'
        for one in pictures
    )
    where = f"{place.span_mm[0]:.0f} to {place.span_mm[1]:.0f} mm" if place.span_mm else "all of it"
    uids = ", ".join(uid for uid in place.series_instance_uids if uid)
    return (
        f'<figure class="{kind}">{images}<figcaption><b>{escape(heading)}</b><br>{escape("; ".join(place.labels))}'
        f'<br>{where}<br><span class="uid">{escape(uids)}</span></figcaption></figure>'
    )
