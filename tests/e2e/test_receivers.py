"""A whole node with receiver processes: what they take in is told of, counted, indexed, and all of them end."""

import urllib.request
from collections.abc import Callable
from typing import Any

import psutil

Factory = Callable[..., Any]


def test_a_node_with_receivers(start_node: Factory, send: Factory, make_series: Factory, wait_for: Factory) -> None:
    node = start_node(PACSIMILE_DICOM_RECEIVERS="2", PACSIMILE_AUDIT_TO="file")
    children = psutil.Process(node.process.pid).children()
    assert sum("node.receiver" in child.cmdline() for child in children) == 2
    wait_for(lambda: node.log.count("receives from now on") == 2, 120, "both receivers")
    folder = make_series(1)
    instances = sum(file.is_file() for file in folder.rglob("*"))
    send(node.dicom_port, folder)
    node.wait_until_indexed(instances)
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ports['http']}/metrics", timeout=30) as answer:
        figures = answer.read().decode()
    assert f'pacsimile_instances_received_total{{outcome="stored"}} {instances}.0' in figures
    assert 'pacsimile_associations_total{outcome="accepted"} 1.0' in figures
    assert "pacsimile_open_associations 0.0" in figures
    assert node.stop() == 0
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    told = "".join(file.read_text() for file in (node.data_dir / "audit").glob("*") if file.is_file())
    assert "Begin Transferring DICOM Instances" in told
    assert "DICOM Instances Transferred" in told
