"""Cohorts: what is outside of one is not there, whichever way and at whatever level one asks."""

from typing import Any

import pytest

from config.access import Cohort
from indexer.attributes import InstanceHeader
from indexer.catalog import Catalog
from indexer.catalog.browse import StudyFilter
from indexer.catalog.lookup import Level, Prefilter

Factory = Any

STUDIES = (
    # study, patient's ID, issuer, Accession Number, description, protocol, institution, modality
    ("2.25.1", "TRIAL-1", "A", "X1", "Thorax [1]", "PROTO", "North", "CT"),
    ("2.25.2", "TRIAL-1", "A", "X2", "", "", "South", "MR"),
    ("2.25.3", "trial-1", "B", "Y1", "thorax\n", "PROTO", "", "CT"),
    ("2.25.4", "", "", "", "Thorax %", "OTHER", "North", "CT"),
)


@pytest.fixture
def filled(catalog: Catalog, a_header: Factory, a_file: Factory) -> Catalog:
    for study, patient_id, issuer, accession, description, protocol, institution, modality in STUDIES:
        for number in range(2):
            sop = f"{study}.{number}.1"
            header: InstanceHeader = a_header(sop, f"{study}.{number}", study, patient_id, modality)
            header.patient["00100021"] = {"vr": "LO", "Value": [issuer]}
            header.study["00080050"] = {"vr": "SH", "Value": [accession]}
            header.study["00081030"] = {"vr": "LO", "Value": [description]}
            header.study["00120020"] = {"vr": "LO", "Value": [protocol]} if protocol else {"vr": "LO"}
            if number:  # one series of the study says it
                header.series["00080080"] = {"vr": "LO", "Value": [institution]}
            catalog.receipts.enter(header, a_file(sop), "keep-first")
    return catalog


CASES: list[tuple[dict[str, tuple[str, ...]], set[int]]] = [
    ({"patient_id": ("TRIAL-1",)}, {1, 2}),
    ({"patient_id": ("TRIAL-*",)}, {1, 2}),  # case counts
    ({"patient_id": ("*",)}, {1, 2, 3}),  # no value is no match
    ({"patient_id": ("?????-1",), "issuer_of_patient_id": ("B",)}, {3}),
    ({"study_description": ("Thorax [1]", "nothing")}, {1}),
    ({"study_description": ("Thorax [*",)}, {1}),  # what is special elsewhere is a character here
    ({"study_description": ("Thorax %*",)}, {4}),
    ({"study_description": ("thorax?",)}, {3}),  # line ends included
    ({"accession_number": ("X*",)}, {1, 2}),
    ({"study_instance_uid": ("2.25.4", "2.25.1")}, {1, 4}),
    ({"clinical_trial_protocol_id": ("PROTO",)}, {1, 3}),
    ({"clinical_trial_protocol_id": ("PROTO",), "institution_name": ("North",)}, {1}),
    ({"institution_name": ("N*",)}, {1, 4}),
    ({"institution_name": ("' OR 1=1 --", "West")}, set()),
]


def test_a_cohort_has_the_studies_that_meet_all_conditions(filled: Catalog) -> None:
    for conditions, members in CASES:
        view = filled.within(Cohort(name="some", **conditions))
        found = {one.study_instance_uid for one in view.browse.studies(StudyFilter(), first=0, limit=10)}
        assert found == {f"2.25.{number}" for number in members}, conditions


def test_what_is_outside_is_not_there_at_any_level(filled: Catalog) -> None:
    view = filled.within(Cohort(name="one", study_instance_uid=("2.25.1",)))
    counts = [len(list(view.lookup.entities(level))) for level in Level]
    assert counts == [1, 1, 2, 2]
    everything = [len(list(filled.within(None).lookup.entities(level))) for level in Level]
    assert everything == [3, 4, 8, 8]


def test_a_patient_is_as_large_as_what_is_seen(filled: Catalog) -> None:
    view = filled.within(Cohort(name="one", accession_number=("X1",)))
    (patient,) = view.lookup.entities(Level.PATIENT)
    seen = view.lookup.summaries(Level.PATIENT, [patient.patient_pk])[patient.patient_pk]
    assert (seen.studies, seen.series, seen.instances, seen.modalities) == (1, 2, 2, ("CT",))
    whole = filled.lookup.summaries(Level.PATIENT, [patient.patient_pk])[patient.patient_pk]
    assert (whole.studies, whole.series, whole.instances, whole.modalities) == (2, 4, 4, ("CT", "MR"))
    others = [entity.study_pk for entity in filled.lookup.entities(Level.STUDY)]
    assert len(view.lookup.summaries(Level.STUDY, others)) == 1


def test_no_name_leads_to_what_is_outside(filled: Catalog) -> None:
    view = filled.within(Cohort(name="one", accession_number=("X1",)))
    hidden = list(filled.lookup.series_of_study("2.25.2"))
    assert len(hidden) == 2
    assert not view.lookup.series_of_study("2.25.2")
    assert view.lookup.series_by_uid("2.25.2.0") is None
    assert not view.lookup.series_info([one.series_pk for one in hidden])
    assert not view.lookup.series_of_instances([hidden_sop := "2.25.2.0.1"])  # type: ignore[list-item]
    assert [one.study_instance_uid for one in view.lookup.series_of_patient(hidden[0].patient_pk)] == ["2.25.1"] * 2
    assert not view.lookup.studies_by_accession("X2")
    assert view.lookup.instance_path(hidden_sop) is None
    assert not list(view.lookup.entities(Level.IMAGE, Prefilter(sop_instance_uid=[hidden_sop])))
    assert not view.holdings.instances({Level.STUDY: ["2.25.2"]}, 10)
    assert len(view.holdings.instances({Level.PATIENT: ["TRIAL-1"]}, 10)) == 2
    assert not view.browse.by_uid(["2.25.2"])
    assert view.browse.modalities() == ["CT"]
    assert not filled.commitments.held([hidden_sop], view.cohort)  # type: ignore[list-item]
    assert filled.commitments.held([hidden_sop])  # type: ignore[list-item]


def test_reports_of_a_node_are_not_shown(filled: Catalog, a_header: Factory, a_file: Factory) -> None:
    """They name similar studies, whoever may see these."""
    for number, manufacturer in enumerate(("Pacsimile", "Other", "")):
        header = a_header(f"2.25.1.9.{number}", f"2.25.1.9{number}", "2.25.1", "TRIAL-1", "SR")
        header.series["00080070"] = {"vr": "LO", "Value": [manufacturer]} if manufacturer else {"vr": "LO"}
        filled.receipts.enter(header, a_file(header.sop_instance_uid), "keep-first")
    view, whole = filled.within(Cohort(name="one", accession_number=("X1",))), filled.within(None)
    for catalog, reports in ((view, 2), (whole, 3)):
        assert len(catalog.lookup.series_of_study("2.25.1")) == 2 + reports
        assert len(catalog.holdings.instances({Level.STUDY: ["2.25.1"]}, 10)) == 2 + reports
        (study,) = catalog.lookup.entities(Level.STUDY, Prefilter(study_instance_uid=["2.25.1"]))
        assert catalog.lookup.summaries(Level.STUDY, [study.study_pk])[study.study_pk].instances == 2 + reports
        chosen = Prefilter(study_instance_uid=["2.25.1"], modality=["SR"])
        assert len(list(catalog.lookup.entities(Level.SERIES, chosen))) == reports
        assert len(list(catalog.lookup.entities(Level.IMAGE, chosen))) == reports
        assert len(catalog.browse.by_uid(["2.25.1"])["2.25.1"].series) == 2 + reports
    assert view.lookup.series_by_uid("2.25.1.90") is None
    assert view.lookup.instance_path("2.25.1.9.0") is None
    assert not filled.commitments.held(["2.25.1.9.0"], view.cohort)  # type: ignore[list-item]


def test_embeddings_of_a_cohort_are_told_apart(catalog: Catalog, archive: Factory) -> None:
    for number in (1, 2):
        archive.indexed(f"2.25.{number}1", chunks=2 + number, study=f"2.25.{number}", patient_id=f"P{number}")
    encoder = "encoder-a"
    for number in (1, 2):
        cohort = Cohort(name="one", patient_id=(f"P{number}",))
        assert len(catalog.embeddings.ids_within(cohort, encoder)) == 2 + number  # type: ignore[arg-type]


def test_a_cohort_without_conditions_is_none() -> None:
    with pytest.raises(ValueError, match="at least one condition"):
        Cohort(name="all")
