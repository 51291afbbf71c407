import tomllib
from pathlib import Path

import pytest

from config.errors import ConfigError
from config.load import defaults_text, load_settings, variable_of
from config.model import Settings


def test_every_default_is_commented() -> None:
    lines = [line for line in defaults_text().splitlines() if "=" in line and not line.startswith("#")]
    plain = {"host", "port", "max_associations"}
    bare = [line for line in lines if "#" not in line and line.split()[0] not in plain]
    assert not bare


def test_defaults_name_every_setting() -> None:
    tables = tomllib.loads(defaults_text())
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if hasattr(section, "model_fields"):
            assert set(tables[name]) == set(section.model_fields)
        else:
            assert name in tables


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[dicom]\nport = 1000\naet = "FILE"\nhost = "file"\n')
    settings = load_settings(
        file,
        {"PACSIMILE_DICOM_PORT": "2000", "PACSIMILE_DICOM_AET": "ENV"},
        {"dicom.port": 3000, "http.port": None},
    )
    assert (settings.dicom.port, settings.dicom.aet, settings.dicom.host) == (3000, "ENV", "file")
    assert settings.http.port == 8080


def test_the_environment_can_name_the_file_and_hold_lists(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('bundle = "tiny"\n')
    settings = load_settings(
        None,
        {
            "PACSIMILE_CONFIG": str(file),
            "PACSIMILE_DICOM_PRIVATE_STORAGE_SOP_CLASSES": "1.2.3, 1.2.4",
            "PATH": "/bin",
        },
    )
    assert settings.bundle == "tiny"
    assert settings.dicom.private_storage_sop_classes == ("1.2.3", "1.2.4")


def test_all_problems_come_at_once_with_their_source(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('bundel = "tiny"\n[dicom]\naet = "A NAME FAR TOO LONG"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {"PACSIMILE_DICOM_PROT": "1", "PACSIMILE_HTTP_PORT": "text"}, {"dicom.port": 70000})
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "Did you mean bundle?" in text
    assert "Did you mean PACSIMILE_DICOM_PORT?" in text
    assert "http.port (PACSIMILE_HTTP_PORT)" in text
    assert "dicom.port (command line)" in text
    assert f"dicom.aet ({file})" in text


@pytest.mark.parametrize("text", ["[dicom\n", "\x00"])
def test_a_file_that_is_no_toml_is_a_problem(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(file)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")


def test_tables_of_peers_are_checked_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[[peers]]\naet = "PACS"\nhost = "pacs"\nport = 104\n')
    assert load_settings(file).peers[0].port == 104
    file.write_text('[[peers]]\naet = "PACS"\nhost = "pacs"\nport = 0\n')
    with pytest.raises(ConfigError, match=r"peers\.port") as caught:
        load_settings(file)
    assert str(file) in str(caught.value)


def test_settings_never_change() -> None:
    settings = load_settings()
    with pytest.raises(Exception, match="frozen"):
        settings.bundle = "other"  # type: ignore[misc]
    assert variable_of("dicom.similar_aet") == "PACSIMILE_DICOM_SIMILAR_AET"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"storage.keep": "none"}, "need each other"),
        ({"storage.retrieve_aet": "PACS"}, "need each other"),
        ({"storage.keep": "none", "storage.retrieve_aet": "OTHER"}, "storage.retrieve_aet must be the aet of one"),
        ({"fetch.source_aet": "OTHER"}, "fetch.source_aet must be the aet of one"),
        ({"fetch.source_aet": "A\\B"}, "fetch.source_aet"),
        ({"fetch.method": "rest"}, "fetch.method"),
    ],
)
def test_archives_must_be_peers(settings: dict[str, object], problem: str) -> None:
    peers = [{"aet": "PACS", "host": "pacs", "port": 104}]
    with pytest.raises(ConfigError, match=problem):
        load_settings(overrides={"peers": peers, **settings})
    good = {"storage.keep": "none", "storage.retrieve_aet": "PACS", "fetch.source_aet": "PACS"}
    known = load_settings(overrides={"peers": peers, **good}).peer("PACS")
    assert known is not None
    assert known.host == "pacs"


def test_a_part_of_a_node_needs_what_is_shared() -> None:
    with pytest.raises(ConfigError, match=r"only receive and work shares .* set catalog\.url"):
        load_settings(None, {"PACSIMILE_ROLES": "receive,work"})
    shared = {"PACSIMILE_CATALOG_URL": "postgresql://db/x", "PACSIMILE_STORAGE_SPOOL_DIR": "/shared/spool"}
    assert load_settings(None, {"PACSIMILE_ROLES": "work", **shared}).roles == ("work",)
    with pytest.raises(ConfigError, match="roles"):
        load_settings(None, {"PACSIMILE_ROLES": "cook", **shared})
