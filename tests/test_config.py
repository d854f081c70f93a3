"""Settings: which layer wins, what is refused and in which words, what a reload may change."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pacsnode.config import (
    RELOADABLE,
    SHORT_NAMES,
    Peer,
    Settings,
    changes,
    load,
    peer_values,
    settings_table,
)
from pacsnode.errors import ConfigurationError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "pacsnode.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def refusal(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(path, environ=environ or {})
    return str(error.value)


def test_without_anything_the_defaults_hold() -> None:
    settings = load(environ={})
    assert settings == Settings()
    assert (settings.node.ae_title, settings.dimse.port, settings.web.port) == ("PACSNODE", 11112, 8042)


def test_file_beats_defaults_environment_beats_file_flags_beat_environment(write: Write) -> None:
    path = write("[dimse]\nport = 1\nmax_associations = 5\nasync_window = 7\n")
    environ = {"PACSNODE_DIMSE_PORT": "2", "PACSNODE_DIMSE__MAX_ASSOCIATIONS": "6"}
    settings = load(path, {("dimse", "port"): 3}, environ)
    assert (settings.dimse.port, settings.dimse.max_associations, settings.dimse.async_window) == (3, 6, 7)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_every_short_variable_sets_its_key(name: str) -> None:
    section, key = SHORT_NAMES[name]
    text = {"level": "debug", "port": "4711"}.get(key, "ELSEWHERE")
    settings = load(environ={name: text})
    assert str(getattr(getattr(settings, section), key)) == text


def test_a_short_variable_and_an_empty_one_do_not_disturb_each_other() -> None:
    assert load(environ={"PACSNODE_STORAGE": "data", "PACSNODE_DIMSE__PORT": ""}).dimse.port == 11112


def test_variables_of_other_programs_are_left_alone() -> None:
    assert load(environ={"PACSNODE_EXE": "bin/pacsnode", "PORT": "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PACSNODE_DIMES_PORT", "PACSNODE_DIMSE_PORT"),
        ("PACSNODE_LOG_FORMAT", "PACSNODE_LOG__FORMAT"),
        ("PACSNODE_PEER", "PACSNODE_PEERS"),
    ],
)
def test_a_variable_that_is_nearly_ours_is_refused(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is no setting; did you mean {meant}[?]"):
        load(environ={name: "1"})


@pytest.mark.parametrize("name", ["PACSNODE_SERVICE_HOST", "PACSNODE_PORT", "PACSNODE_PORT_11112_TCP_PORT"])
def test_variables_that_kubernetes_sets_for_a_service_called_pacsnode_do_no_harm(name: str) -> None:
    assert load(environ={name: "tcp://10.0.0.1:11112"}) == Settings()


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    environ = {"PACSNODE_DIMSE__ALLOWED_CALLING_AE_TITLES": "CT1, MR 1"}
    assert load(environ=environ).dimse.allowed_calling_ae_titles == ("CT1", "MR 1")


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ('"512 MiB"', 2**29), ('"1 GB"', 10**9), ('"2GiB"', 2**31)]
)
def test_sizes_may_be_written_for_people(write: Write, text: str, size: int) -> None:
    assert load(write(f"[storage]\nreserve = {text}\n"), environ={}).storage.reserve == size


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[dimse]\nport = 70000", ["dimse.port = 70000", "0 to 65535"]),
        ("[dimse]\nport = true", ["dimse.port = true", "0 to 65535"]),
        ("[dimse]\nprot = 104", ["dimse.prot = 104", "no setting", "did you mean port?"]),
        ("[dimse]\nmax_pdu_length = 5", ["dimse.max_pdu_length = 5", "or 0 (no limit)"]),
        ("[dimse]\nidle_timeout = nan", ["dimse.idle_timeout", "0 to 86400"]),
        ("[dimse]\nextra_sop_classes = ['../x']", ['dimse.extra_sop_classes.0 = "../x"', "a list of UIDs"]),
        ("[dimze]\nport = 1", ["dimze", "no section", "did you mean dimse?"]),
        ("[log]\nlevel = 'loud'", ['log.level = "loud"', '"debug", "info", "warning" or "error"']),
        ("[storage]\nduplicates = 'drop'", ["storage.duplicates", '"keep", "replace" or "refuse"']),
        ("[storage]\nreserve = '-1 GiB'", ["storage.reserve", "bytes, or a size"]),
        ("[node]\nae_title = 'SEVENTEEN LETTERS'", ["node.ae_title", "1 to 16 characters"]),
        ("[peers]\nCT1 = '192.0.2.7'", ["peers.CT1 = '192.0.2.7'", "HOST:PORT"]),
        ("[peers]\nCT1 = 104", ["peers.CT1 = 104"]),
        ("[peers]\n'A\\B' = 'ct1:104'", ["peers.A", "no backslash"]),
        ("[peers.CT1]\nhost = 'ct1'", ["peers.CT1.port", "missing"]),
        ("[peers.CT1]\nhost = 'ct1'\nport = 0", ["peers.CT1.port = 0", "1 to 65535"]),
        ("[peers.CT1]\nhost = 'ct1'\nport = 1\nae_title = 'CT2'", ["peers.CT1.ae_title"]),
        ("[[peers]]\nhost = 'ct1'", ["peers", "table"]),
        ("[dimse]\nport = ?", ["not TOML", "line 2"]),
        ("[log]\nlevel = " + "[" * 3000, ["nested too deeply"]),
    ],
)
def test_a_wrong_line_is_refused_with_key_value_and_what_is_allowed(
    write: Write, text: str, facts: list[str]
) -> None:
    message = refusal(write(text))
    assert "\n" not in message
    for fact in facts:
        assert fact in message


def test_every_wrong_value_gets_its_own_line_and_the_place_it_stands(write: Write) -> None:
    path = write("[dimse]\nport = -1\n")
    message = refusal(path, {"PACSNODE_WEB_PORT": "http"})
    first, second = message.splitlines()
    assert first.startswith(f"dimse.port = -1 in {path}")
    assert second.startswith('web.port = "http" in the variable PACSNODE_WEB_PORT')


def test_a_misspelled_variable_is_refused() -> None:
    assert "did you mean port?" in refusal(environ={"PACSNODE_DIMSE__PROT": "104"})
    assert "did you mean dimse?" in refusal(environ={"PACSNODE_DIMZE__PORT": "104"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml").startswith(f"{tmp_path / 'none.toml'}: No such file")


def test_peers_are_keyed_by_ae_title_and_written_long_or_short(write: Write) -> None:
    path = write("[peers]\nCT1 = 'ct1.example:104'\n[peers.'MR 1']\nhost = '::1'\nport = 105\n")
    assert load(path, environ={}).peers == {
        "CT1": Peer.parse("CT1@ct1.example:104"),
        "MR 1": Peer.parse("MR 1@[::1]:105"),
    }


def test_peers_of_all_layers_are_joined_and_the_later_layer_wins(write: Write) -> None:
    path = write("[peers]\nA = 'file:1'\nB = 'file:1'\nC = 'file:1'\n")
    environ = {"PACSNODE_PEERS": "B@environment:2, C@environment:2"}
    peers = load(path, peer_values(["C@flag:3"]), environ).peers
    assert {title: peer.host for title, peer in peers.items()} == {
        "A": "file",
        "B": "environment",
        "C": "flag",
    }


@pytest.mark.parametrize("text", ["CT1@192.0.2.7:104", "CT 1@ct1.example:11112", "CT1@[2001:db8::7]:104"])
def test_a_peer_reads_back_as_it_is_written(text: str) -> None:
    assert str(Peer.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CT1",
        "CT1@host",
        "CT1@:104",
        "CT1@host:",
        "@host:104",
        "CT1@host:0",
        "CT1@host:65536",
        "CT1@::1:104",
    ],
)
def test_what_is_no_peer_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="AET@HOST:PORT"):
        Peer.parse(text)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().dimse.port = 1  # type: ignore[misc]


def test_a_reload_takes_peers_and_log_level_and_names_what_waits() -> None:
    old = load(environ={})
    new = load(
        overrides={
            ("dimse", "port"): 104,
            ("log", "level"): "debug",
            ("log", "format"): "json",
            **peer_values(["CT1@ct1:104"]),
        },
        environ={},
    )
    changed = changes(old, new)
    assert set(changed.reloadable) == {"log.level", "peers"}
    assert set(changed.need_restart) == {"dimse.port", "log.format"}
    assert changes(old, old) == changes(new, new)


def test_what_is_reloadable_exists() -> None:
    assert {"peers", "forward", "prefetch", *(row.name for row in settings_table())} >= RELOADABLE


def test_every_setting_says_what_it_means_and_what_is_allowed() -> None:
    for row in settings_table():
        assert row.meaning, row.name
        assert row.allowed, row.name
