"""Who may connect, and what they see: settings that every face of the node shares."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from config.section import Section

CohortName = Annotated[str, StringConstraints(pattern=r"^\w[\w .-]{0,63}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=1000)]
"""Any of these; ``*`` stands for any characters, ``?`` for one, and case counts."""


class Cohort(Section):
    """The studies that somebody may see: those that meet every condition given; at least one is given.

    A study without a value never meets a condition on it.

    Attributes
    ----------
    institution_name : tuple of str
        Of any series of the study; the others are of the study or its patient.
    clinical_trial_protocol_id : tuple of str
        Known of studies that came since the catalog keeps it.
    """

    name: CohortName
    patient_id: Patterns = ()
    issuer_of_patient_id: Patterns = ()
    accession_number: Patterns = ()
    study_instance_uid: Patterns = ()
    study_description: Patterns = ()
    clinical_trial_protocol_id: Patterns = ()
    institution_name: Patterns = ()

    @model_validator(mode="after")
    def _restrict(self) -> Self:
        if not any(value for name, value in self if name != "name"):
            raise ValueError("a cohort needs at least one condition")
        return self
