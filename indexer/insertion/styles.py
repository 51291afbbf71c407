"""How findings are drawn; training and testing share no setting, or a head would learn the drawing."""

from dataclasses import dataclass
from typing import Literal

Span = tuple[float, float]
"""Least and greatest; one is drawn evenly from between."""


@dataclass(frozen=True)
class Style:
    """Ranges of everything about a finding that is not its kind.

    Attributes
    ----------
    outline : str
        ``ellipsoid``: one, stretched; ``lobes``: several overlapping balls.
    roughness : Span
        Of the outline, as a share of the radius.
    edge_mm : Span
        Over which it fades.
    texture_mm, texture_hu : Span
        Correlation length and amplitude within.
    shift_hu : Span
        Added to the finding's usual density.
    scale : Span
        Times the size that is asked for.
    """

    name: str
    outline: Literal["ellipsoid", "lobes"]
    roughness: Span
    edge_mm: Span
    texture_mm: Span
    texture_hu: Span
    shift_hu: Span
    scale: Span


TRAINING = Style(
    name="training",
    outline="ellipsoid",
    roughness=(0.05, 0.2),
    edge_mm=(0.8, 2.0),
    texture_mm=(3.0, 6.0),
    texture_hu=(4.0, 14.0),
    shift_hu=(-15.0, 5.0),
    scale=(0.75, 1.25),
)
TESTING = Style(
    name="testing",
    outline="lobes",
    roughness=(0.25, 0.4),
    edge_mm=(2.2, 3.2),
    texture_mm=(7.0, 11.0),
    texture_hu=(16.0, 26.0),
    shift_hu=(6.0, 18.0),
    scale=(1.0, 1.0),
)
