"""What settings are made of: tables that never change, and values that several of them use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose."""
PositiveInt = Annotated[int, Field(gt=0)]
AETitle = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[!-\[\]-~]+$")]
"""1 to 16 characters of the default repertoire without backslash or spaces (PS3.5 table 6.2-1, VR AE)."""


class Section(BaseModel):
    """A table of settings: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")
