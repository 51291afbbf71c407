"""What a measurement of sensitivity to inserted findings comes to, as figures and as a table."""

from dataclasses import asdict, dataclass

from indexer.evaluate.estimates import Estimate
from indexer.evaluate.tables import TextTable, interval

SYNTHETIC = (
    "Findings are synthetic: inserted into real scans. This says what an embedding can tell, nothing of patients."
)
TRAINED, PLAIN = "compartment, trained on other patients", "compartment, no labels"
UNSEEN = "compartment, trained on neither patient"
"""Each of two compared patients is new to what was fitted, as all of an archive are."""
WHOLE, HISTOGRAM, CHANCE = "whole body slab", "intensity histogram", "chance"
WAYS = (TRAINED, UNSEEN, PLAIN, WHOLE, HISTOGRAM, CHANCE)
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

    def cells(self) -> tuple[str, ...]:
        """P@5 of every way and P@1 of the trained one, with their intervals."""
        of_ways = (interval(self.five[way]) if way in self.five else _NOT_MEASURED for way in WAYS)
        return *of_ways, interval(self.first[TRAINED])

    def table(self) -> TextTable:
        """As a table of its own."""
        columns = ("", *(f"P@5 {way}" for way in WAYS), f"P@1 {TRAINED}")
        return TextTable("Inserted findings together", columns, ((self.what, *self.cells()),), SYNTHETIC)


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

    def table(self) -> TextTable:
        """All figures as one table."""
        columns = ("finding", "queries", "relevant", *(f"P@5 {way}" for way in WAYS), f"P@1 {TRAINED}")
        rows = [
            (
                one.label + ("" if one.in_gallery else " (other sizes answer)"),
                f"{one.queries} of {one.patients}",
                f"{one.relevant:.1f}",
                *(f"{one.five[way]:.2f}" if way in one.five else _NOT_MEASURED for way in WAYS),
                f"{one.first[TRAINED]:.2f}",
            )
            for one in self.labels
        ]
        rows += [(one.what, "", "", *one.cells()) for one in self.overall]
        title = f"Inserted findings, {self.kind}: {self.patients} patients, {self.slabs} slabs, other patients only"
        return TextTable(title, columns, tuple(rows), SYNTHETIC)
