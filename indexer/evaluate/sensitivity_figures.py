"""What a measurement of sensitivity to inserted findings comes to, as figures and as a table."""

from dataclasses import asdict, dataclass
from itertools import chain

from indexer.evaluate.estimates import Estimate
from indexer.evaluate.tables import TextTable, interval

SYNTHETIC = (
    "Findings are synthetic: inserted into real scans. This says what an embedding can tell, nothing of patients."
)
_COMPARTMENT = "compartment, "
TRAINED, PLAIN = f"{_COMPARTMENT}trained on other patients", f"{_COMPARTMENT}no labels"
UNSEEN = f"{_COMPARTMENT}trained on neither patient"
"""Each of two compared patients is new to what was fitted, as all of an archive are."""
WHOLE, HISTOGRAM, CHANCE = "whole body slab", "intensity histogram", "chance"
WAYS = (TRAINED, UNSEEN, PLAIN, WHOLE, HISTOGRAM, CHANCE)
_NARROW = {TRAINED: "trained", UNSEEN: "on neither", PLAIN: "no labels", CHANCE: "chance"}
"""What a table by finding has room for, in 80 columns."""
_BY_WAY = ("asked by, ranked by", "P@5", "P@1")
_NOT_MEASURED = "–"


@dataclass(frozen=True)
class LabelFigures:
    """Queries of one finding and size; relevant is the same finding, of any size.

    Attributes
    ----------
    in_gallery : bool
        Whether galleries hold findings of this size.
    relevant : float
        Mean number of relevant slabs in the gallery.
    first, five : dict of str to float
        Way to P@1 and P@5.
    """

    label: str
    in_gallery: bool
    queries: int
    patients: int
    relevant: float
    first: dict[str, float]
    five: dict[str, float]


@dataclass(frozen=True)
class Overall:
    """Means over findings of the means over queries, of sizes that galleries hold.

    Attributes
    ----------
    what : str
        What is relevant, and who asks.
    first, five : dict of str to Estimate
        Way to P@1 and P@5, with 95 % intervals over patients.
    """

    what: str
    first: dict[str, Estimate]
    five: dict[str, Estimate]

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Of a table: who asks, then a row for each way that was measured, with intervals."""
        measured = (way for way in WAYS if way in self.five)
        ways = ((f"  {way.removeprefix(_COMPARTMENT)}", self.five[way], self.first[way]) for way in measured)
        return (self.what, "", ""), *((way, interval(five), interval(first)) for way, five, first in ways)

    def table(self) -> TextTable:
        """As a table of its own."""
        return TextTable("Inserted findings together", _BY_WAY, self.rows(), SYNTHETIC)


@dataclass(frozen=True)
class Sensitivity:
    """Leave-one-patient-out figures over inserted findings.

    Attributes
    ----------
    gallery : float
        Mean number of slabs in it.
    overall : tuple of Overall
        Asked by slabs with findings; by clean slabs too; with only the same size as relevant.
    on_finding : dict of str to float
        Finding to the share of its queries with a right first hit whose most telling cell shows it.
    smallest_mm : dict of str to float or None
        Finding to the smallest size from which on P@1 is at least 0.8.
    """

    kind: str
    patients: int
    slabs: int
    gallery: float
    overall: tuple[Overall, ...]
    labels: tuple[LabelFigures, ...]
    on_finding: dict[str, float]
    smallest_mm: dict[str, float | None]

    def to_json(self) -> dict[str, object]:
        """Everything, for `json`."""
        return {"note": SYNTHETIC, **asdict(self)}

    def tables(self) -> tuple[TextTable, TextTable]:
        """Sums by what slabs are ranked by, then P@5 and P@1 by finding; 80 columns wide at most."""
        title = f"Inserted findings, {self.kind}: {self.patients} patients, {self.slabs} slabs, other patients only"
        sums = tuple(chain.from_iterable(one.rows() for one in self.overall))
        columns = ("finding", "queries", *_NARROW.values(), "P@1")
        rows = tuple(
            (
                one.label + ("" if one.in_gallery else " (other sizes answer)"),
                f"{one.queries} of {one.patients}",
                *(f"{one.five[way]:.2f}" if way in one.five else _NOT_MEASURED for way in _NARROW),
                f"{one.first[TRAINED]:.2f}",
            )
            for one in self.labels
        )
        by_finding = TextTable(f"{self.kind}, by finding: P@5, and P@1 if trained", columns, rows, SYNTHETIC)
        return TextTable(title, _BY_WAY, sums, SYNTHETIC), by_finding
