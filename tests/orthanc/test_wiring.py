"""What the containers are wired with: settings that the node takes, a configuration that Orthanc takes."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Factory = Callable[..., Any]
DOCKER = Path(__file__).parents[2] / "docker"
TOKEN = "0123456789abcdef0123456789abcdef"


def test_the_node_takes_its_settings(pacsimile: Factory) -> None:
    variables = {"PACSIMILE_CONFIG": str(DOCKER / "node.toml"), "PACSIMILE_BUNDLE": "tiny"}
    done = pacsimile(
        "config",
        "check",
        "--json",
        variables={**variables, "PACSIMILE_HTTP_TOKENS": TOKEN, "PACSIMILE_DICOM_HOST": "0.0.0.0"},
    )
    assert done.status == 0, done.err
    assert done.json["settings"]["orthanc"]["follow"] is False
    assert TOKEN not in done.out


def test_orthanc_and_the_script_take_their_configuration() -> None:
    known = json.loads((DOCKER / "orthanc" / "orthanc.json").read_text())
    assert known["PythonScript"] == f"/etc/orthanc/{(DOCKER / 'orthanc' / 'pacsimile.py').name}"
    assert known["Pacsimile"]["SendStableTo"] in known["DicomModalities"]
    assert known["Pacsimile"]["Token"] == "${PACSIMILE_HTTP_TOKEN}"


def test_compose_takes_its_file() -> None:
    found = shutil.which("docker-compose", path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("docker-compose is not installed")
    command = [found, "-f", str(DOCKER / "compose.yaml"), "config"]
    without = subprocess.run(command, env={"PATH": "/usr/bin"}, capture_output=True, text=True)
    assert "PACSIMILE_HTTP_TOKEN" in without.stderr or "docker/.env" in without.stderr
    done = subprocess.run(
        command, env={"PATH": "/usr/bin", "PACSIMILE_HTTP_TOKEN": TOKEN}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for file in ("node.toml", "orthanc/orthanc.json", "orthanc/pacsimile.py"):
        assert str(DOCKER / file) in done.stdout
        assert (DOCKER / file).is_file()


def test_compose_takes_the_file_of_several_nodes(pacsimile: Factory, tmp_path: Path) -> None:
    found = shutil.which("docker-compose", path="/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("docker-compose is not installed")
    secrets = {"PACSIMILE_HTTP_TOKEN": TOKEN, "POSTGRES_PASSWORD": "p"}
    command = [found, "-f", str(DOCKER / "several.yaml"), "config"]
    done = subprocess.run(command, env={"PATH": "/usr/bin", **secrets}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    for role in ("receive", "work", "query"):
        assert services[role]["command"] == ["serve", "--role", role]
        variables = {**services[role]["environment"], "PACSIMILE_ROLES": role, "PACSIMILE_BUNDLE": "tiny"}
        faces = {"PACSIMILE_DICOM_HOST": "0.0.0.0", "PACSIMILE_HTTP_HOST": "0.0.0.0"}
        checked = pacsimile("config", "check", "--json", variables={**variables, **faces})
        assert checked.status == 0, checked.err


def test_the_image_is_built_with_versions_that_the_package_admits() -> None:
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    locked = {name: version for name, _, version in (line.partition("==") for line in lines) if version}
    wanted = [Requirement(one) for one in distribution("pacsimile").requires or []]
    for one in wanted:
        extra = "" if one.marker is None else str(one.marker)
        if extra and not any(name in extra for name in ("pretrained", "milvus", "postgresql")):
            continue
        assert one.specifier.contains(locked[canonicalize_name(one.name)]), one


def test_the_image_takes_only_files_with_known_hashes() -> None:
    locked = (DOCKER / "requirements.txt").read_text()
    versions = dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+) \\$", locked, re.MULTILINE))
    for line in (DOCKER / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert not version or versions.get(name, version) == version, line
    wanted = [Requirement(one) for one in distribution("pacsimile").requires or []]
    needed = {canonicalize_name(one.name) for one in wanted if "extra" not in str(one.marker)}
    assert needed - {"editables"} <= set(versions)  # that one belongs to an installation for development
    for block in re.split(r"\n(?=[a-z])", locked)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
    assert "--require-hashes --requirement requirements.txt" in (DOCKER / "Dockerfile").read_text()
