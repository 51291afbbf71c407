"""An evaluation as people and programs take it home: tables, JSON, a page."""

from dataclasses import dataclass
from pathlib import Path

from indexer.evaluate.html import page
from indexer.evaluate.result import Findings
from indexer.evaluate.tables import TextTable, tables


@dataclass(frozen=True)
class Evaluation(Findings):
    """Findings with their renderings; `to_json` gives them as text."""

    def tables(self) -> tuple[TextTable, ...]:
        """Give all tables, the most telling first; a rich console prints them as they are."""
        return tables(self)

    def write_html(self, path: Path) -> None:
        """Write the report to one file (UTF-8) that needs no network."""
        path.write_text(page(self), encoding="utf-8")
