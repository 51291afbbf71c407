"""Whole evaluations: of synthetic series by the small encoder, of a catalog, of real series where they are."""

import io
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from engines import catalog_url
from pydicom import dcmread
from rich.console import Console

from config.errors import ConfigError
from indexer import projection
from indexer.attributes import header_of
from indexer.bundle import Bundle, read_bundle
from indexer.catalog import Catalog
from indexer.catalog.receipts import StoredFile
from indexer.encoder import MonaiEncoder
from indexer.evaluate import CatalogSource, Evaluation, FolderSource, Plan, evaluate
from indexer.evaluate.describe import Eye
from indexer.evaluate.pictures import png
from indexer.evaluate.refit import Projections, Reference, Refit
from indexer.evaluate.stored import index_recall
from indexer.fit import volumes_below
from indexer.pipeline import embed_series
from indexer.uids import EncoderId
from indexer.vectors.exact import ExactIndex

TINY = read_bundle("tiny")
SECRET = "KEEP-THIS-PRIVATE"
PLAN = Plan(cutoffs=(1, 2), resamples=50, worst=2)
SERIES = {
    "s1": (SECRET, 0),
    "s2": (SECRET, 400),
    "s3": ("B", 0),
    "s4": ("B", 400),
    "s5": ("C", 0),
    "s6": ("D", 400),
}


@pytest.fixture
def folder(a_folder: Callable[..., Path]) -> Path:
    return a_folder(SERIES)


@pytest.fixture
def labels(a_table: Callable[..., Path]) -> Path:
    rows = [(name, "dense" if contrast else "plain") for name, (_, contrast) in SERIES.items()]
    return a_table(("series", "kind"), *rows)


class Page(HTMLParser):
    """Checks that tags close as they opened, and collects attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def of_folder(folder: Path, labels: Path, bundle: Bundle = TINY, plan: Plan = PLAN) -> Evaluation:
    return evaluate(FolderSource(folder, bundle, device="cpu"), labels, plan=plan)


@pytest.fixture
def evaluation(folder: Path, labels: Path) -> Evaluation:
    return of_folder(folder, labels)


def test_every_way_is_measured_on_the_same_questions(evaluation: Evaluation) -> None:
    keys = [way.key for way in evaluation.ways]
    assert keys == ["encoder", "random-weights", "last-layer", "histogram", "thumbnail", "random-order"]
    assert (evaluation.counts.queries, evaluation.counts.patients, evaluation.counts.labels) == (6, 4, 2)
    assert evaluation.counts.mean_gallery == pytest.approx((4 * 4 + 2 * 5) / 6)
    assert all([label.queries for label in way.labels] == [3, 3] for way in evaluation.ways)
    assert evaluation.way("histogram").macro["mAP"].value == pytest.approx(1.0)
    assert evaluation.way("random-order").micro["P@1"].value == pytest.approx((4 * 2 / 4 + 2 * 2 / 5) / 6)


def test_no_hit_is_of_the_querys_patient(evaluation: Evaluation) -> None:
    patient_of = {f"2.25.10{n}": patient for n, (patient, _) in enumerate(SERIES.values(), start=1)}
    for worst in evaluation.worst:
        own = patient_of[worst.place.series_instance_uids[0]]
        assert own not in {patient_of[hit.place.series_instance_uids[0]] for hit in worst.hits}
        assert worst.hits


def test_json_holds_every_figure_and_nobodys_name(evaluation: Evaluation) -> None:
    text = evaluation.to_json()
    whole = json.loads(text)
    assert whole["headline"] == "encoder"
    assert whole["ways"][0]["macro"]["mAP"].keys() == {"value", "low", "high"}
    assert {group["by"] for group in whole["groups"]} == {
        "modality",
        "manufacturer",
        "sex",
        "age",
        "slice thickness",
    }
    assert {"group": "MAKER"}.items() <= next(g for g in whole["groups"] if g["by"] == "manufacturer").items()
    assert sum(n for row in whole["first_hits"].values() for n in row.values()) == 6
    assert SECRET not in text
    assert "pictures" not in whole


def test_the_page_stands_alone(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    evaluation.write_html(path)
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert not re.search(r"https?:|//\w|url\(|@import", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert not {tag for tag, _ in page.seen} & {"script", "link", "iframe", "object"}
    pictures = [attributes["src"] for tag, attributes in page.seen if tag == "img"]
    assert len(pictures) >= 2 * PLAN.worst
    assert all((one or "").startswith("data:image/png;base64,") for one in pictures)
    assert {tag for tag, _ in page.seen} >= {"svg", "rect", "table", "figure"}
    assert SECRET not in text


def test_labels_cannot_break_the_page(folder: Path, a_table: Callable[..., Path], tmp_path: Path) -> None:
    names = {0: "<script>alert(1)</script>", 400: '"&<b>'}
    table = a_table(("series", "kind"), *((name, names[contrast]) for name, (_, contrast) in SERIES.items()))
    of_folder(folder, table, plan=Plan(cutoffs=(1,), resamples=5, baselines=())).write_html(tmp_path / "page.html")
    page = Page()
    page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not page.open
    assert not {tag for tag, _ in page.seen} & {"script", "b<"}


def test_a_console_prints_the_tables(evaluation: Evaluation) -> None:
    console = Console(file=io.StringIO(), width=200)
    for table in evaluation.tables():
        assert all(len(row) == len(table.columns) for row in table.rows)
        console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "macro mAP" in printed
    assert "micro P@1" in printed
    assert SECRET not in printed


def test_tables_fit_a_terminal_of_80_columns(folder: Path, a_table: Callable[..., Path]) -> None:
    """No word is broken: neither those of ways, nor labels as long as those of levels are."""
    names = {0: "thoracic_inlet", 400: "upper_abdomen"}
    table = a_table(("series", "kind"), *((name, names[contrast]) for name, (_, contrast) in SERIES.items()))
    found = of_folder(folder, table, plan=Plan(resamples=5, cross_validate=True, baselines=("random-weights",)))
    terminal = Console(width=80, file=io.StringIO(), record=True)
    for one in found.tables():
        terminal.print(one)

    printed = terminal.export_text()
    cells = [cell for one in found.tables() for row in (one.columns, *one.rows) for cell in row]
    words = [word for word in " ".join(cells).split() if len(word) < 40]  # an encoder's name may be longer
    assert {*words} <= {*printed.split()}
    assert "leave-both-patients-out" in words
    assert "thoracic_inlet" in words
    for way in found.ways:
        value = way.macro["mAP"]
        assert f"{value.value:.3f}" in printed
        assert way.fit.split()[0] in printed


def test_what_is_fitted_is_also_refitted_without_the_patient(
    folder: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = of_folder(folder, labels, plan=Plan(cutoffs=(1,), resamples=5, baselines=(), cross_validate=True))
    assert [way.key for way in first.ways] == [
        "encoder",
        "encoder, leave-one-patient-out",
        "encoder, leave-both-patients-out",
        "random-order",
    ]
    assert first.headline == "encoder, leave-one-patient-out"
    assert "leave-one-patient-out" in first.way(first.headline).title

    left_out: list[frozenset[str]] = []
    without = Refit.without

    def watching(self: Refit, patients: frozenset[str]) -> Projections:
        left_out.append(patients)
        return without(self, patients)

    monkeypatch.setattr(Refit, "without", watching)
    references = _references(folder)
    projection.save(tmp_path / "own.npz", dict(Refit(references).whole()))
    spec = TINY.projection.model_copy(update={"file": "own.npz", "seed": None})
    fitted = TINY.model_copy(update={"projection": spec, "folder": tmp_path})
    found = of_folder(
        folder, labels, fitted, Plan(cutoffs=(1,), resamples=5, both_out=False, baselines=("random-weights",))
    )
    assert "these very series" in found.way("encoder").fit
    assert found.headline == "encoder, leave-one-patient-out"
    assert {len(patients) for patients in left_out} == {1}
    assert len(set(left_out)) == 4


def test_both_patients_are_left_out_where_there_are_few_pairs_or_it_is_asked_for(
    folder: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(cutoffs=(1,), resamples=5, baselines=(), cross_validate=True)
    monkeypatch.setattr("indexer.evaluate.folder.MOST_PAIRS", 5)
    many = of_folder(folder, labels, plan=plan)
    asked = of_folder(folder, labels, plan=replace(plan, both_out=True))

    assert "encoder, leave-both-patients-out" not in [way.key for way in many.ways]
    assert "6 pairs: --both-out" in many.facts["cross-validated"]
    assert asked.way("encoder, leave-both-patients-out").macro["mAP"].value is not None
    assert asked.facts["cross-validated"] == "yes"
    assert asked.headline == many.headline == "encoder, leave-one-patient-out"


def _references(folder: Path) -> list[Reference]:
    eye = Eye(TINY, "cpu")
    return [Reference(name, volume.modality, eye.see(volume).reference) for name, volume in volumes_below(folder)]


def test_z_levels_are_pooled_apart(folder: Path, a_table: Callable[..., Path]) -> None:
    rows = [(name, mm, level) for name in SERIES for mm, level in ((66, "middle"), (300, "outside"))]
    rows += [(name, 96, "upper") for name in SERIES]
    table = a_table(("series", "centre_mm_from_inferior_end", "level"), *rows)
    plan = Plan(cutoffs=(1,), resamples=5, slab_mm=24.0, baselines=("thumbnail", "histogram"), worst=1)
    found = of_folder(folder, table, plan=plan)
    assert found.counts.items == 12
    assert sum(found.counts.excluded.values()) == 6
    assert any("outside the imaged volume" in reason for reason in found.counts.excluded)
    assert found.way("thumbnail").macro["mAP"].value == pytest.approx(1.0)
    assert found.worst[0].place.span_mm in {(54.0, 78.0), (84.0, 108.0)}
    assert "exactly" in found.facts["z-level labels"]


def test_studies_can_be_labelled(folder: Path, a_table: Callable[..., Path]) -> None:
    rows = [(f"2.25.20{n}", "dense" if contrast else "plain") for n, (_, contrast) in enumerate(SERIES.values(), 1)]
    found = of_folder(folder, a_table(("study", "kind"), *rows), plan=Plan(cutoffs=(1,), resamples=5, baselines=()))
    assert found.counts.items == 6


def test_what_cannot_be_used_is_counted_and_said(folder: Path, a_table: Callable[..., Path]) -> None:
    (folder / "broken").mkdir()
    source = dcmread(folder / "s1" / "001.dcm")
    source.SeriesInstanceUID = "2.25.99"
    source.save_as(folder / "broken" / "1.dcm")
    rows = [(name, "plain") for name in (*SERIES, "broken", "absent")] + [("s1", "")]
    found = of_folder(
        folder, a_table(("series", "kind"), *rows), plan=Plan(cutoffs=(1,), resamples=5, baselines=())
    )
    assert found.counts.excluded["no such series or study in the folder"] == 1
    assert found.counts.excluded["the row has no label"] == 1
    assert sum(count for reason, count in found.counts.excluded.items() if "not embedded" in reason) == 1


def test_copies_under_two_patient_ids_are_pointed_out(
    a_folder: Callable[..., Path], a_table: Callable[..., Path]
) -> None:
    folder = a_folder({"a": ("A", 0), "b": ("B", 0), "c": ("C", 300)})
    table = a_table(("series", "kind"), ("a", "x"), ("b", "x"), ("c", "x"))
    found = of_folder(folder, table, plan=Plan(cutoffs=(1,), resamples=5, baselines=("thumbnail",)))
    assert any("several Patient IDs" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(cutoffs=(0, 1)), "cutoffs"),
        (Plan(cutoffs=()), "cutoffs"),
        (Plan(baselines=("magic",)), "magic"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(folder: Path, labels: Path, plan: Plan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        of_folder(folder, labels, plan=plan)


def test_labels_of_one_patient_each_measure_nothing(folder: Path, a_table: Callable[..., Path]) -> None:
    table = a_table(("series", "kind"), *((name, patient) for name, (patient, _) in SERIES.items()))
    with pytest.raises(ConfigError, match="nothing can be measured"):
        of_folder(folder, table, plan=Plan(baselines=()))


@pytest.fixture
def catalog(folder: Path, tmp_path: Path) -> Catalog:
    """The same series as a node holds them."""
    encoder = MonaiEncoder(TINY, "cpu")
    opened = Catalog(catalog_url(tmp_path))
    paths = sorted(folder.rglob("*.dcm"))
    for number, path in enumerate(paths):
        dataset = dcmread(path)
        header = header_of(dataset, str(dataset.file_meta.TransferSyntaxUID))
        file = StoredFile(str(path.relative_to(folder)), path.stat().st_size, f"{number:064x}")
        opened.receipts.enter(header, file, "keep-first")
    opened.progress.settle(0.0)
    while (leased := opened.progress.lease("test", 60.0)) is not None:
        done = embed_series([folder / path for path in leased.paths], encoder)
        opened.embeddings.finish(
            leased, "test", encoder.encoder_id, done.chunks, seconds=done.seconds, notes=done.notes
        )
    opened.embeddings.activate(encoder.encoder_id)
    return opened


def test_a_catalog_gives_the_figures_of_its_series(catalog: Catalog, folder: Path, labels: Path) -> None:
    index = ExactIndex(dim=256, encoder_id=TINY.encoder_id)
    for ids, vectors in catalog.embeddings.vectors(TINY.encoder_id):
        index.add(ids, vectors)
    source = CatalogSource(catalog, index=index, spool=folder, names=folder)
    found = evaluate(source, labels, plan=PLAN)
    from_folder = of_folder(folder, labels, plan=PLAN)
    assert found.way("encoder").macro["mAP"].value == pytest.approx(
        from_folder.way("encoder").macro["mAP"].value, abs=0.02
    )
    assert found.counts == from_folder.counts
    assert found.index_recall == {"1": 1.0, "2": 1.0}
    assert all(len(found.pictures[one.place.item]) == 2 for one in found.worst)
    assert SECRET not in found.to_json()
    catalog.close()


def test_a_catalog_answers_z_levels_with_the_nearest_chunk(catalog: Catalog, a_table: Callable[..., Path]) -> None:
    rows = [(f"2.25.10{n}", mm, level) for n in range(1, 7) for mm, level in ((40, "low"), (100, "high"))]
    table = a_table(("series", "centre_mm_from_inferior_end", "level"), *rows)
    found = evaluate(CatalogSource(catalog), table, plan=PLAN)
    assert found.counts.items == 12
    assert re.search(r"nearest .* off on average", found.facts["z-level labels"])
    assert found.index_recall == {}
    catalog.close()


def test_a_catalog_refuses_what_it_cannot_do(catalog: Catalog, labels: Path) -> None:
    with pytest.raises(ConfigError, match="cross-validate"):
        evaluate(CatalogSource(catalog), labels, plan=Plan(cross_validate=True))
    with pytest.raises(ConfigError, match="none of the labelled"):
        evaluate(CatalogSource(catalog), labels)
    other = ExactIndex(dim=256, encoder_id=EncoderId("other"))
    with pytest.raises(ConfigError, match="index holds"):
        evaluate(CatalogSource(catalog, index=other), _by_uid(labels))
    catalog.close()


def _by_uid(labels: Path) -> Path:
    text = labels.read_text(encoding="utf-8")
    labels.write_text(re.sub(r"^s(\d)", r"2.25.10\1", text, flags=re.MULTILINE), encoding="utf-8")
    return labels


def test_recall_of_an_index_leaves_the_asking_vector_out() -> None:
    """An index that knows half of the vectors finds each vector itself, which must not count."""
    drawn = np.random.default_rng(2).normal(size=(200, 16))
    vectors = np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)
    ids = np.arange(200, dtype=np.int64)
    whole, half = (ExactIndex(dim=16, encoder_id=EncoderId("e")) for _ in range(2))
    whole.add(ids, vectors)
    half.add(ids[::2], vectors[::2])
    assert index_recall(whole, ids, vectors, (1, 5)) == {"1": 1.0, "5": 1.0}
    assert index_recall(half, ids, vectors, (5,))["5"] == pytest.approx(0.5, abs=0.1)
    lonely = ExactIndex(dim=16, encoder_id=EncoderId("e"))
    assert index_recall(lonely, ids, vectors, (1,)) == {"1": 0.0}


def test_png_is_what_readers_expect() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = png(pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 4
    assert int.from_bytes(data[20:24], "big") == 3
    length = int.from_bytes(data[33:37], "big")
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(3, 5)
    assert (lines[:, 1:] == pixels).all()
    assert data.endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
def test_real_levels_are_found_better_than_by_chance(shared_dicom: Path, a_table: Callable[..., Path]) -> None:
    rows = [
        ("ct-chest-rad1", 144, "thorax"), ("ct-chest-rad2", 144, "thorax"), ("ct-chest-acrin013", 144, "thorax"),
        ("ct-head-cranium", 48, "head"), ("ct-head-gantrytilt", 48, "head"),
        ("ct-abdomenpelvis-ts", 144, "pelvis"), ("ct-abdomen-acrin001", 48, "pelvis"),
    ]  # fmt: skip
    table = a_table(("series", "centre_mm_from_inferior_end", "level"), *rows)
    found = of_folder(shared_dicom, table, plan=Plan(cutoffs=(1,), resamples=100))
    assert found.counts.queries == 7
    best = max(found.way(key).macro["mAP"].value or 0.0 for key in ("encoder", "histogram", "thumbnail"))
    assert best > 1.5 * (found.way("random-order").macro["mAP"].value or 0.0)


def test_galleries_of_several_modalities_are_not_cross_validated(folder: Path, labels: Path) -> None:
    """Two modalities have two projections; a refit of one of them would tell the modality of the query away."""
    for name in ("s1", "s5"):
        _rename_modality(folder / name)
    mixed = Plan(cutoffs=(1,), resamples=5, baselines=(), within_modality=False)
    assert of_folder(folder, labels, plan=mixed).facts["cross-validated"] == "no"
    with pytest.raises(ConfigError, match="several modalities"):
        of_folder(folder, labels, plan=replace(mixed, cross_validate=True))
    found = of_folder(folder, labels, plan=replace(mixed, within_modality=True, cross_validate=True))
    assert found.headline == "encoder, leave-one-patient-out"
    assert found.counts.mean_gallery < of_folder(folder, labels, plan=mixed).counts.mean_gallery


def _rename_modality(folder: Path) -> None:
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.Modality, dataset.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        dataset.save_as(path)
