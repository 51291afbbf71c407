"""`pacsimile priors`: then and now."""

from dataclasses import asdict

from config.model import Settings
from indexer.priors import PriorAnswer, Priors, PriorStudy
from indexer.uids import StudyInstanceUID
from node import logs
from node.cli.archive import existing_catalog
from node.cli.output import console, print_json, print_table


def priors(settings: Settings, uid: str, limit: int, *, as_json: bool) -> None:
    """Print the patient's other studies, newest first."""
    logs.configure_for_command(settings.log)
    with existing_catalog(settings) as catalog:
        answer = Priors(catalog).of_study(StudyInstanceUID(uid), limit)
    if as_json:
        print_json(asdict(answer))
    else:
        _print(answer)


def _print(answer: PriorAnswer) -> None:
    columns = ("date", "similarity", "study", "series", "levels in z: there ~ here")
    print_table("Priors, newest first", columns, [_row(one) for one in answer.priors])
    print_table("Nearly the same images", columns, [_row(one) for one in answer.duplicates])
    if not (answer.priors or answer.duplicates):
        console.print("No other study of the patient can be compared.")


def _row(study: PriorStudy) -> tuple[str, ...]:
    best = study.series[0]
    where = ""
    if best.levels:
        first, last = best.levels[0], best.levels[-1]
        where = (
            f"{first.found_z_mm[0]:.0f}…{last.found_z_mm[1]:.0f} mm ~ "
            f"{first.query_z_mm[0]:.0f}…{last.query_z_mm[1]:.0f} mm"
        )
    date = study.study_date or "unknown"
    return (date, f"{study.similarity:.3f}", study.study_instance_uid, best.series_instance_uid, where)
