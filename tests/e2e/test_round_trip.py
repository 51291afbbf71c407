"""Every real series into a node and on to another by C-MOVE: what arrives is what went in, byte for byte."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_scp.part10 import split_file
from indexer.catalog.lookup import Level

Factory = Callable[..., Any]


@pytest.fixture(scope="module")
def archive(
    start_shared_node: Factory, tool: Factory, shared_dicom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path]]:
    """A node that holds every real series and knows storescp as DEST; also the folder that storescp writes to."""
    folder = tmp_path_factory.mktemp("dest")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    settings = folder.parent / "peers.toml"
    settings.write_text(f'[[peers]]\naet = "DEST"\nhost = "127.0.0.1"\nport = {port}\n')
    command = [tool("storescp"), "-aet", "DEST", "-od", str(folder), "+xa", "+B", "-uf", str(port)]
    destination = subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"})
    node = start_shared_node(PACSIMILE_CONFIG=str(settings), PACSIMILE_INDEXING_QUIET_TIME_S="3600")
    yield node, folder
    destination.kill()
    destination.wait()


def encoded(files: list[Path]) -> dict[str, tuple[str, bytes]]:
    """SOP Instance UID to transfer syntax and data set, as they are encoded."""
    return {
        str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): split_file(file.read_bytes())
        for file in files
    }


def named(study: str) -> tuple[str, str]:
    return "-k", f"StudyInstanceUID={study}"


def run(tool: str, port: int, *arguments: str) -> str:
    command = [tool, "-v", "-S", "-aec", "PACSIMILE", *arguments, "127.0.0.1", str(port)]
    done = subprocess.run(
        command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_every_real_series_comes_back_as_it_is_kept(
    archive: tuple[Any, Path], tool: Factory, pacsimile: Factory, shared_dicom: Path
) -> None:
    node, moved = archive
    kept = pacsimile("ingest", shared_dicom, "--data-dir", node.data_dir, "--no-index", "--json")
    assert kept.status == 0, kept.err
    wanted = encoded(sorted((node.data_dir / "spool").rglob("*.dcm")))
    given = encoded([file for file in shared_dicom.rglob("*.dcm") if str(file) not in kept.json["refused"]])
    assert wanted == given
    with node.catalog() as catalog:
        studies = [one.attributes["0020000D"]["Value"][0] for one in catalog.lookup.entities(Level.STUDY)]
    for study in studies:
        run(tool("movescu"), node.dicom_port, "-aem", "DEST", "-k", "QueryRetrieveLevel=STUDY", *named(study))
    assert encoded(list(moved.iterdir())) == wanted
