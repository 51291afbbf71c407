"""Analytic solids: where a point lies relative to a surface, in mm, evaluated on separable grids.

Coordinates are LPS mm. `distance` takes x of shape (1, 1, columns), y of (1, rows, 1) and z of (slices, 1, 1) and
answers a float32 array that broadcasts to (slices, rows, columns): negative inside, zero on the surface, close to
the true distance near it.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float32]
Point: TypeAlias = tuple[float, float, float]

EVERYWHERE = 1e6
_TINY = 1e-6


def floats(values: ArrayLike) -> Floats:
    """Return values as float32."""
    return np.asarray(values, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box in LPS mm that holds a whole solid."""

    low_mm: Point
    high_mm: Point

    def grown(self, margin_mm: float) -> "Box":
        """Return the box with every face moved outwards."""
        low, high = np.subtract(self.low_mm, margin_mm), np.add(self.high_mm, margin_mm)
        return Box(_point(low), _point(high))


class Solid(Protocol):
    """A region of space; `distance` may be wrong in size far from the surface, never in sign."""

    @property
    def box(self) -> Box:
        """Box outside of which no point is inside."""

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the signed distance in mm, negative inside."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """Ellipsoid, turned about the patient's anterior-posterior axis (y) by `roll_deg`."""

    centre_mm: Point
    semi_axes_mm: Point
    roll_deg: float = 0.0

    @property
    def box(self) -> Box:
        """Box of the ellipsoid; that of its bounding sphere when it is turned."""
        reach = self.semi_axes_mm if self.roll_deg == 0.0 else (max(self.semi_axes_mm),) * 3
        return Box(_point(np.subtract(self.centre_mm, reach)), _point(np.add(self.centre_mm, reach)))

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the first-order distance: the implicit function over the length of its gradient."""
        dx, dy, dz = (axis - c for axis, c in zip((x, y, z), floats(self.centre_mm), strict=True))
        if self.roll_deg:
            turn = math.radians(self.roll_deg)
            cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
            dx, dz = cosine * dx + sine * dz, cosine * dz - sine * dx
        a, b, c = floats(self.semi_axes_mm)
        radius = np.sqrt((dx / a) ** 2 + (dy / b) ** 2 + (dz / c) ** 2)
        slope = np.sqrt((dx / a**2) ** 2 + (dy / b**2) ** 2 + (dz / c**2) ** 2)
        nothing = np.float32(_TINY)
        distance: Floats = (radius - 1) * (radius + nothing * min(a, b, c)) / (slope + nothing)
        return distance


@dataclass(frozen=True, slots=True)
class Capsule:
    """Tapering rod with round ends: a vessel, a rib segment, a long bone."""

    start_mm: Point
    end_mm: Point
    start_radius_mm: float
    end_radius_mm: float

    @property
    def box(self) -> Box:
        """Box around both ends."""
        low, high = np.minimum(self.start_mm, self.end_mm), np.maximum(self.start_mm, self.end_mm)
        return Box(_point(low), _point(high)).grown(max(self.start_radius_mm, self.end_radius_mm))

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the distance to the axis less the radius there."""
        along = floats(np.subtract(self.end_mm, self.start_mm))
        dx, dy, dz = (axis - s for axis, s in zip((x, y, z), floats(self.start_mm), strict=True))
        length_squared = np.float32(max(float(along @ along), _TINY))
        t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / length_squared, 0, 1)
        away = (dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2
        taper = np.float32(self.end_radius_mm - self.start_radius_mm)
        distance: Floats = np.sqrt(away) - (np.float32(self.start_radius_mm) + taper * t)
        return distance


@dataclass(frozen=True, slots=True)
class Column:
    """Upright column of superelliptic cross section that changes smoothly along z.

    Each ring is (z, half width, half depth, centre y) in mm, in ascending z; there is nothing beyond the last
    rings.
    """

    rings: tuple[tuple[float, float, float, float], ...]
    exponent: float = 2.0
    smoothing_mm: float = 12.0

    @property
    def box(self) -> Box:
        """Box of the widest rings."""
        z, width, depth, centre = np.array(self.rings, dtype=np.float64).T
        return Box(
            (-float(width.max()), float((centre - depth).min()), float(z[0])),
            (float(width.max()), float((centre + depth).max()), float(z[-1])),
        )

    def ring(self, z: NDArray[np.float32] | float) -> tuple[Floats, Floats, Floats]:
        """Return half width, half depth and centre y in mm at each z, averaged over the smoothing length."""
        table = np.array(self.rings, dtype=np.float64)
        offsets = np.linspace(-1, 1, 7) * self.smoothing_mm
        at = np.asarray(z, dtype=np.float64)[..., None] + offsets
        width, depth, centre = (
            np.float32(np.interp(at, table[:, 0], table[:, column]).mean(axis=-1)) for column in (1, 2, 3)
        )
        return np.asarray(width), np.asarray(depth), np.asarray(centre)

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the distance along the ray from the column's axis, and along z at its ends."""
        width, depth, centre = self.ring(z)
        n = np.float32(self.exponent)
        radius = (np.abs(x / width) ** n + np.abs((y - centre) / depth) ** n) ** (1 / n)
        reach = np.sqrt(x**2 + (y - centre) ** 2)
        radial = reach - (reach + np.float32(_TINY) * width) / (radius + np.float32(_TINY))
        low, high = np.float32(self.rings[0][0]), np.float32(self.rings[-1][0])
        distance: Floats = np.maximum(radial, np.maximum(low - z, z - high))
        return distance


@dataclass(frozen=True, slots=True)
class BelowDomes:
    """Everything below a surface of paraboloid domes, each (x, y, top z, radius x, radius y, drop at radius)."""

    domes: tuple[tuple[float, float, float, float, float, float], ...]

    @property
    def box(self) -> Box:
        """Box without end except above the highest dome."""
        return Box((-EVERYWHERE,) * 3, (EVERYWHERE, EVERYWHERE, max(dome[2] for dome in self.domes)))

    def surface(self, x: Floats, y: Floats) -> Floats:
        """Return the height of the surface in mm."""
        heights = [
            np.float32(top) - np.float32(drop) * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
            for cx, cy, top, rx, ry, drop in floats(self.domes)
        ]
        return np.asarray(np.maximum.reduce(heights), dtype=np.float32)

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the height above the surface."""
        return z - self.surface(x, y)


@dataclass(frozen=True, slots=True)
class HalfSpace:
    """Everything on one side of a plane across x, y or z."""

    axis: Literal["x", "y", "z"]
    side: Literal["below", "above"]
    level_mm: float

    @property
    def box(self) -> Box:
        """Box without end except at the plane."""
        low, high = [-EVERYWHERE] * 3, [EVERYWHERE] * 3
        (high if self.side == "below" else low)["xyz".index(self.axis)] = self.level_mm
        return Box(_point(low), _point(high))

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the distance from the plane."""
        along = {"x": x, "y": y, "z": z}[self.axis] - np.float32(self.level_mm)
        return along if self.side == "below" else -along


@dataclass(frozen=True, slots=True)
class Both:
    """What lies in every one of the parts."""

    parts: tuple[Solid, ...]

    @property
    def box(self) -> Box:
        """Intersection of the parts' boxes."""
        low = np.max([part.box.low_mm for part in self.parts], axis=0)
        return Box(_point(low), _point(np.min([part.box.high_mm for part in self.parts], axis=0)))

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the largest of the parts' distances."""
        return np.asarray(_fold(np.maximum, [part.distance(x, y, z) for part in self.parts]))


@dataclass(frozen=True, slots=True)
class Grown:
    """A solid with its surface moved outwards (inwards where negative)."""

    solid: Solid
    margin_mm: float

    @property
    def box(self) -> Box:
        """The grown box."""
        return self.solid.box.grown(self.margin_mm)

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the solid's distance less the margin."""
        return self.solid.distance(x, y, z) - np.float32(self.margin_mm)


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything that the solid is not."""

    solid: Solid

    @property
    def box(self) -> Box:
        """All of space."""
        return Box((-EVERYWHERE,) * 3, (EVERYWHERE,) * 3)

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the solid's distance with its sign turned."""
        return -self.solid.distance(x, y, z)


def rod(points: tuple[Point, ...], radii_mm: tuple[float, ...]) -> tuple[Capsule, ...]:
    """Return capsules along a polyline with a radius at each point."""
    pairs = zip(points[:-1], points[1:], radii_mm[:-1], radii_mm[1:], strict=True)
    return tuple(Capsule(a, b, ra, rb) for a, b, ra, rb in pairs)


def mirrored(point: Point, side: int) -> Point:
    """Return a point given for the patient's left side (x > 0) on the side +1 (left) or -1 (right)."""
    return side * point[0], point[1], point[2]


def _fold(combine: np.ufunc, arrays: list[Floats]) -> Floats:
    total = arrays[0]
    for array in arrays[1:]:
        total = combine(total, array)
    return total


def _point(values: object) -> Point:
    x, y, z = np.asarray(values, dtype=np.float64)
    return float(x), float(y), float(z)
