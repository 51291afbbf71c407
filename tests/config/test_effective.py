"""What is shown of the settings: all of them, where each comes from, and no secret."""

from pathlib import Path

from config.effective import MASK, effective, masked
from config.load import load_settings

FILE = """
[dicom]
port = 104
[http]
tokens = ["secret-secret-secret-1", "secret-secret-secret-2"]
[[http.clients]]
name = "reader"
sha256 = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e70000"
scopes = ["READ"]
[[rules]]
name = "tell"
do = "webhook"
url = "https://name:secret-3@example.org"
"""


def test_everything_with_its_source_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(FILE)
    environ = {"PACSIMILE_CATALOG_URL": "postgresql://u:secret-4@db/x", "PACSIMILE_DICOM_AET": "NODE"}
    settings = load_settings(file, environ, {"bundle": "tiny"})
    shown = {one.key: one for one in effective(settings, file, environ, {"bundle": "tiny"})}
    sources = {key: one.source for key, one in shown.items() if one.source != "default"}
    assert sources == {
        "bundle": "command line",
        "dicom.port": str(file),
        "dicom.aet": "PACSIMILE_DICOM_AET",
        "http.tokens": str(file),
        "http.clients": str(file),
        "rules": str(file),
        "catalog.url": "PACSIMILE_CATALOG_URL",
    }
    assert (shown["dicom.port"].value, shown["dicom.tls.ca_file"].value) == (104, "")
    assert shown["http.tokens"].value == [MASK, MASK]
    assert shown["catalog.url"].value == shown["rules"].value[0]["url"] == MASK
    assert shown["orthanc.password"].value == ""  # there is none
    assert "secret" not in str(shown) + str(masked(settings))
    assert "5ec2e7" not in str(shown)
