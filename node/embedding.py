"""A process that embeds what somebody asks about and does not want stored, then ends.

Started by `node.web.jobs` as ``python -m node.embedding``: the main process loads no network library. It reads one
`Task` on standard input and writes JSON, one object a line, on standard output: progress, then the result or a
problem.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from config.errors import PacsimileError
from indexer.attributes import EMBEDDABLE_SOP_CLASSES
from indexer.bundle import read_bundle
from indexer.encoder import Encoder, MonaiEncoder
from indexer.errors import Parked
from indexer.headers import quiet, read_dataset, text
from indexer.nifti import read_nifti
from indexer.outside import OutsideSeries
from indexer.pipeline import embed_series
from indexer.sealing import StoredPath, folder_of
from indexer.uids import SeriesInstanceUID
from node import logs
from node.embedding_task import Task, is_nifti, result_line
from node.processes import end_with_parent
from node.storage import vault_of
from node.worker import claim_stdout, limit_memory

Progress = Callable[[str, float], None]


def main() -> int:
    """Embed one task; exit status 1 where that fails."""
    end_with_parent()
    answers = claim_stdout()
    task = Task.model_validate_json(sys.stdin.buffer.readline())
    logs.configure(task.settings, "embedding")
    limit_memory(task.settings.indexing.memory_limit_mib)
    indexing = task.settings.indexing

    def progress(stage: str, share: float) -> None:
        _say(answers, {"stage": stage, "progress": share})

    try:
        progress("loading the encoder", 0.0)
        encoder = MonaiEncoder(
            read_bundle(task.settings.bundle), indexing.device, indexing.threads, indexing.engine
        )
        found = embedded(task, encoder, progress)
    except PacsimileError as error:
        _say(answers, {"problem": str(error)})
        return 1
    except (MemoryError, RuntimeError):  # the second is how PyTorch says it
        _say(answers, {"problem": "it needs more memory than indexing.memory_limit_mib, or is damaged"})
        return 1
    _say(answers, result_line(encoder.encoder_id, found))
    return 0


def embedded(task: Task, encoder: Encoder, progress: Progress) -> list[OutsideSeries]:
    """Embed the task's series.

    Raises
    ------
    Parked
        None of them can be embedded; the message says why.
    """
    vault = vault_of(task.settings)
    uploaded = [folder_of(path.parent, vault) / path.name for path in task.files]
    if is_nifti(task.files[0]):
        progress("embedding", 0.1)
        volume = read_nifti(uploaded[0], task.modality)
        return [OutsideSeries(SeriesInstanceUID(""), task.modality, encoder.encode(volume).chunks)]
    series = _series_of(uploaded)
    found, reasons = [], []
    for number, ((uid, modality), files) in enumerate(series.items()):
        progress("embedding", 0.1 + 0.8 * number / len(series))
        try:
            found.append(OutsideSeries(SeriesInstanceUID(uid), modality, embed_series(files, encoder).chunks))
        except Parked as error:
            reasons.append(str(error))
    if not found:
        raise Parked("; ".join(dict.fromkeys(reasons)) or "the files hold no CT or MR image")
    return found


def _series_of(files: Sequence[StoredPath]) -> dict[tuple[str, str], list[StoredPath]]:
    """Series Instance UID and modality to the CT and MR images of it."""
    found: dict[tuple[str, str], list[StoredPath]] = {}
    for path in files:
        with quiet():
            header = read_dataset(path, with_pixels=False)
            if text(header, "SOPClassUID") in EMBEDDABLE_SOP_CLASSES:
                key = (text(header, "SeriesInstanceUID"), text(header, "Modality"))
                found.setdefault(key, []).append(path)
    return found


def _say(answers: TextIO, line: Mapping[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
