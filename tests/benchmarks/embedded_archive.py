"""A catalog of as many embedded series as wanted, with the statistics of real ones; nobody was ever scanned.

Run from the repository root: ``python tests/benchmarks/embedded_archive.py FOLDER CHUNKS [SEED]`` makes the data
folder of a node; the same seed makes the same archive. ``… --describe FOLDER`` prints the statistics of a folder's
embeddings, made or real, by which `STATISTICS` was chosen.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert

from indexer.catalog import Catalog
from indexer.catalog.embeddings import GLOBAL
from indexer.catalog.engine import open_engine, writing
from indexer.catalog.schema import chunk, embedding, indexing, instance, patient, series, study
from indexer.levels import LANDMARKS_MM
from indexer.places import CODE_DIM, looks_of, place_of, with_places
from indexer.uids import EncoderId

DIM = 256
STEP_MM = 48.0
SERIES_A_BLOCK = 4096
_ROOT = "2.25.77"
_SLICES = 8
_CHEST_MM = (330.0, 540.0)
"""Where lungs are: chunks there have a part of their own."""
_CT_IMAGE, _MR_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class Statistics:
    """How the looks of chunks vary: shares of the squared length, which with `common` make one.

    Parameters
    ----------
    common : float
        Shared by all chunks.
    level : float
        Varies smoothly with the place along the body, the same in all patients.
    person, series : float
        Of the patient (at all levels), and of one of their series.
    decay : float
        Variances of the directions fall as their number to the power of minus this.
    level_mm : float
        Places so far apart look half as different as places can.
    neighbour : float
        Correlation, within a series, of what is left at places `STEP_MM` apart.
    """

    common: float
    level: float
    person: float
    series: float
    decay: float
    level_mm: float
    neighbour: float


STATISTICS = {
    "CT": Statistics(0.0, 0.28, 0.10, 0.07, 0.5, 70.0, 0.62),
    "MR": Statistics(0.0, 0.20, 0.10, 0.15, 0.5, 40.0, 0.6),
}


@dataclass(frozen=True, eq=False)
class Made:
    """One made series: vectors (N, DIM) from below, and those of their parts, NaN where a chunk has none."""

    patient: int
    study: int
    modality: str
    places_mm: NDArray[np.float64]
    vectors: NDArray[np.float32]
    parts: NDArray[np.float32]


class Looks:
    """Draws looks of one modality.

    Parameters
    ----------
    dim : int
        Components.
    """

    def __init__(self, statistics: Statistics, dim: int, rng: np.random.Generator) -> None:
        self._of, self._rng, self._dim = statistics, rng, dim
        spread = np.arange(1, dim + 1) ** (-statistics.decay / 2)
        turned, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        self._basis = (turned * (spread / np.linalg.norm(spread))).T.astype(np.float32)
        self._knots_mm = np.arange(-400.0, 1300.0, statistics.level_mm)
        common, levels = rng.standard_normal(dim), rng.standard_normal((len(self._knots_mm), dim))
        self._common = np.float32(statistics.common**0.5) * _unit(common.astype(np.float32) @ self._basis)
        self._levels = levels.astype(np.float32) @ self._basis

    def draw(
        self, places_mm: NDArray[np.float64], person: NDArray[np.int64], of_series: NDArray[np.int64], seed: int
    ) -> NDArray[np.float32]:
        """Draw unit vectors (N, dim) of chunks at places; chunks of a series follow each other from below.

        Parameters
        ----------
        person, of_series : NDArray[np.int64]
            Shape (N,): whose, and of which series of this block, from 0 on.
        seed : int
            Of all persons: the same person looks the same in every block.
        """
        of = self._of
        bumps = np.exp(-0.5 * ((places_mm[:, None] - self._knots_mm) / of.level_mm) ** 2)
        bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
        level = bumps.astype(np.float32) @ self._levels
        whose, back = np.unique(person, return_inverse=True)
        drawn = [np.random.default_rng((seed, one)).standard_normal(self._dim) for one in whose.tolist()]
        own = np.stack(drawn).astype(np.float32)[back] * np.float32(of.person**0.5)
        own += (self._normal(int(of_series[-1]) + 1) * np.float32(of.series**0.5))[of_series]
        left = 1 - of.common - of.level - of.person - of.series
        own += self._along(of_series) * np.float32(left**0.5)
        whole = self._common + np.float32(of.level**0.5) * level + own @ self._basis
        return _unit(whole.astype(np.float32))

    def _along(self, of_series: NDArray[np.int64]) -> NDArray[np.float32]:
        """Draw what is left (N, dim), correlated along each series."""
        drawn, rho = self._normal(len(of_series)), self._of.neighbour
        starts = np.flatnonzero(np.diff(of_series, prepend=-1))
        place = np.arange(len(of_series)) - starts[of_series]
        for at in range(1, int(place.max()) + 1):
            rows = np.flatnonzero(place == at)
            drawn[rows] = rho * drawn[rows - 1] + np.float32((1 - rho**2) ** 0.5) * drawn[rows]
        return drawn

    def _normal(self, rows: int) -> NDArray[np.float32]:
        return self._rng.standard_normal((rows, self._dim), dtype=np.float32)


def made_series(chunks: int, seed: int = 1) -> Iterator[list[Made]]:
    """Draw series in blocks until there are so many chunks: 7 of 10 studies CT, 1 to 3 series each."""
    rng = np.random.default_rng(seed)
    looks = {"CT": Looks(STATISTICS["CT"], DIM - CODE_DIM, rng), "MR": Looks(STATISTICS["MR"], DIM, rng)}
    parts = Looks(STATISTICS["CT"], DIM, rng)
    drawn, last_patient, last_study = 0, 0, 0
    while drawn < chunks:
        of_study = np.repeat(np.arange(SERIES_A_BLOCK), rng.integers(1, 4, SERIES_A_BLOCK))
        studies = last_study + of_study[:SERIES_A_BLOCK]
        whose = last_patient + np.repeat(np.arange(SERIES_A_BLOCK), rng.integers(1, 5, SERIES_A_BLOCK))
        patients = whose[studies - last_study]
        is_ct = rng.random(SERIES_A_BLOCK)[studies - last_study] < 0.7
        lengths = np.where(is_ct, rng.integers(4, 18, SERIES_A_BLOCK), rng.integers(1, 5, SERIES_A_BLOCK))
        lowest = rng.uniform(-50, 450, SERIES_A_BLOCK)
        block: dict[int, Made] = {}
        for modality, chosen in (("CT", np.flatnonzero(is_ct)), ("MR", np.flatnonzero(~is_ct))):
            of_series = np.repeat(np.arange(len(chosen)), lengths[chosen])
            starts = np.concatenate([[0], np.cumsum(lengths[chosen])])
            places = lowest[chosen][of_series] + STEP_MM * (np.arange(len(of_series)) - starts[of_series])
            who = patients[chosen][of_series]
            vectors = looks[modality].draw(places, who, of_series, seed)
            part = np.full((len(vectors), DIM), np.nan, np.float32)
            if modality == "CT":
                padded = np.hstack([vectors, np.zeros((len(vectors), CODE_DIM), np.float32)])
                vectors = with_places(padded, places, places - LANDMARKS_MM["right_diaphragm_dome"])
                lungs = np.flatnonzero((places > _CHEST_MM[0]) & (places < _CHEST_MM[1]))
                if lungs.size:
                    _, packed = np.unique(of_series[lungs], return_inverse=True)
                    part[lungs] = parts.draw(places[lungs], who[lungs], packed, seed + 1)
            for number, one in enumerate(chosen.tolist()):
                rows = slice(starts[number], starts[number + 1])
                block[one] = Made(
                    int(patients[one]), int(studies[one]), modality, places[rows], vectors[rows], part[rows]
                )
        yield [block[one] for one in range(SERIES_A_BLOCK)]
        drawn += int(lengths.sum())
        last_patient, last_study = int(patients[-1]) + 1, int(studies[-1]) + 1


def build(folder: Path, chunks: int, encoder_id: EncoderId, seed: int = 1) -> None:
    """Make the catalog of a node in a folder: every series indexed by one encoder, one instance a series.

    What is not there: files, the journal of an index that has followed all of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder.resolve() / 'catalog.sqlite'}"
    with Catalog(url) as catalog:
        catalog.embeddings.activate(encoder_id)
    engine = open_engine(url)
    left, known = chunks, Known()
    for block in made_series(chunks, seed):
        kept = []
        for one in block:
            if left > 0:
                kept.append(Made(one.patient, one.study, one.modality, *_cut(one, left)))
                left -= len(kept[-1].vectors)
        with writing(engine) as connection:
            known.enter(connection, kept, encoder_id)
    with writing(engine) as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def _cut(one: Made, left: int) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    return one.places_mm[:left], one.vectors[:left], one.parts[:left]


@dataclass
class Known:
    """Keys given so far."""

    series: int = 0
    chunks: int = 0
    patient: int = -1
    study: int = -1

    def enter(self, connection: Connection, block: list[Made], encoder_id: EncoderId) -> None:
        """Enter series with all above and below them."""
        rows: dict[object, list[dict[str, object]]] = {
            table: [] for table in (patient, study, series, instance, indexing, chunk, embedding)
        }
        for one in block:
            self._enter_parents(rows, one)
            self.series += 1
            self._enter_series(rows, one, encoder_id)
            for at in range(len(one.vectors)):
                self.chunks += 1
                self._enter_chunk(rows, one, at, encoder_id)
        for table, of_table in rows.items():
            if of_table:
                connection.execute(insert(table), of_table)  # type: ignore[arg-type]

    def _enter_parents(self, rows: dict[object, list[dict[str, object]]], one: Made) -> None:
        if one.patient != self.patient:
            self.patient = one.patient
            name = f"SYN-{one.patient:07d}"
            sex = "FM"[one.patient % 2]
            attributes = _json(("00100010", "PN", {"Alphabetic": f"Made^{name}"}), ("00100020", "LO", name))
            attributes |= _json(("00100040", "CS", sex))
            row = {"id": one.patient + 1, "key": name, "patient_id": name, "attributes": attributes}
            rows[patient].append(row)
        if one.study != self.study:
            self.study = one.study
            uid, number = f"{_ROOT}.1.{one.study}", f"A{one.study:07d}"
            date = f"{2000 + one.study % 25}{1 + one.study // 25 % 12:02d}{1 + one.study // 300 % 28:02d}"
            attributes = _json(
                ("0020000D", "UI", uid),
                ("00080020", "DA", date),
                ("00080050", "SH", number),
                ("00081030", "LO", f"{one.modality} protocol {one.study % 1000}"),
            )
            rows[study].append(
                {
                    "id": one.study + 1,
                    "patient_pk": one.patient + 1,
                    "study_instance_uid": uid,
                    "study_date": date,
                    "accession_number": number,
                    "attributes": attributes,
                }
            )

    def _enter_series(self, rows: dict[object, list[dict[str, object]]], one: Made, encoder_id: EncoderId) -> None:
        key, uid = self.series, f"{_ROOT}.2.{self.series}"
        attributes = _json(("0020000E", "UI", uid), ("00080060", "CS", one.modality))
        rows[series].append(
            {
                "id": key,
                "study_pk": one.study + 1,
                "series_instance_uid": uid,
                "modality": one.modality,
                "attributes": attributes,
                "state": "INDEXED",
                "revision": 1,
                "last_instance_at": 0.0,
            }
        )
        sop_class = _CT_IMAGE if one.modality == "CT" else _MR_IMAGE
        rows[instance].append(
            {
                "id": key,
                "series_pk": key,
                "sop_instance_uid": f"{_ROOT}.3.{key}",
                "sop_class_uid": sop_class,
                "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "path": f"made/{key}",
                "size_bytes": 0,
                "sha256": f"{key:064x}",
                "received_at": 0.0,
                "embeddable": True,
                "attributes": _json(("00080018", "UI", f"{_ROOT}.3.{key}"), ("00080016", "UI", sop_class)),
            }
        )
        rows[indexing].append(
            {
                "id": key,
                "series_pk": key,
                "encoder_id": encoder_id,
                "revision": 1,
                "at": 0.0,
                "seconds": {},
                "notes": [],
            }
        )

    def _enter_chunk(
        self, rows: dict[object, list[dict[str, object]]], one: Made, at: int, encoder_id: EncoderId
    ) -> None:
        low = float(one.places_mm[at]) - 48.0
        rows[chunk].append(
            {
                "id": self.chunks,
                "indexing_pk": self.series,
                "series_pk": self.series,
                "volume": 0,
                "position": at,
                "box_lps_mm": [-200.0, -150.0, round(low, 1), 200.0, 150.0, round(low + 96.0, 1)],
                "slices": [[f"{_ROOT}.3.{self.series}.{at}.{number}", None] for number in range(_SLICES)],
            }
        )
        for kind, vector in ((GLOBAL, one.vectors[at]), ("LUNGS", one.parts[at])):
            if not np.isnan(vector[0]):
                rows[embedding].append(
                    {
                        "chunk_pk": self.chunks,
                        "encoder_id": encoder_id,
                        "kind": kind,
                        "vector": vector.astype("<f2").tobytes(),
                    }
                )


def _json(*elements: tuple[str, str, object]) -> dict[str, object]:
    return {tag: {"vr": vr, "Value": [value]} for tag, vr, value in elements}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)


def describe(folder: Path) -> dict[str, dict[str, float]]:
    """Statistics of a folder's embeddings by modality; at most 2,000 series of each."""
    with Catalog(f"sqlite:///{folder.resolve() / 'catalog.sqlite'}") as catalog:
        encoder_id = catalog.embeddings.active_encoder()
        if encoder_id is None:
            raise SystemExit("no embeddings there")
        last = int(catalog.embeddings.last_indexing())
        infos = catalog.lookup.series_info(range(1, min(last * 2, 6000) + 1))
        found = catalog.embeddings.sequences(sorted(infos), encoder_id)
    told = {}
    for modality in sorted({infos[pk].modality for pk in found}):
        chosen = [pk for pk in found if infos[pk].modality == modality][:2000]
        vectors = [found[pk].vectors for pk in chosen]
        told[modality] = _described(vectors, [infos[pk].patient_pk for pk in chosen])
    return told


def _described(sequences: list[NDArray[np.float32]], patients: list[int]) -> dict[str, float]:
    """Mean cosines of looks, by how two chunks belong together, and how fast the variances fall."""
    looks = np.concatenate([looks_of(vectors) for vectors in sequences])
    places = np.array([place if (place := place_of(v)) is not None else np.nan for s in sequences for v in s])
    of_series = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    whose = np.asarray(patients)[of_series]
    if len(looks) > 4000:
        kept = of_series < of_series[4000]
        looks, places, of_series, whose = looks[kept], places[kept], of_series[kept], whose[kept]
    cosines = looks @ looks.T
    other, apart = whose[:, None] != whose, np.abs(places[:, None] - places)
    step = np.abs(np.arange(len(looks))[:, None] - np.arange(len(looks)))
    same = of_series[:, None] == of_series
    groups = {
        "other patient": other,
        "other patient, same place": other & (apart < 20),
        "other patient, 50 mm apart": other & (np.abs(apart - 50) < 20),
        "other patient, 100 mm apart": other & (np.abs(apart - 100) < 20),
        "other patient, far": other & (apart > 300),
        "series, next": same & (step == 1),
        "series, second": same & (step == 2),
        "series, fourth": same & (step == 4),
        "other series of the patient": ~other & ~same,
    }
    told = {name: float(cosines[mask].mean()) for name, mask in groups.items() if mask.any()}
    nearest = np.where(other, cosines, -1).max(axis=1)
    told["nearest of another patient"] = float(nearest.mean())
    values = np.linalg.svd(looks - looks.mean(axis=0), compute_uv=False) ** 2
    values /= values.sum()
    told |= {f"variance in {n} directions": float(values[:n].sum()) for n in (4, 16, 48, 96, 128)}
    return {"chunks": len(looks), "series": len(sequences), **told}


def main() -> None:
    """Build or describe."""
    if sys.argv[1] == "--describe":
        print(json.dumps(describe(Path(sys.argv[2])), indent=1))
        return
    began = time.perf_counter()
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    build(Path(sys.argv[1]), int(sys.argv[2]), EncoderId("ct-astra-made"), seed)
    print(f"{int(sys.argv[2])} chunks in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
