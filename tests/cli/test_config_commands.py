"""`pacsnode config check|show`."""

import tomllib
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "conf" / "pacsnode.toml"


def test_the_file_that_comes_along_is_valid(pacsnode) -> None:
    ran = pacsnode("config", "check", "--config", FILE)
    assert (ran.status, ran.output, ran.errors) == (0, f"{FILE}: valid\n", "")


def test_every_wrong_setting_is_a_line(pacsnode, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[dimse]\nport = -1\n[log]\nlevel = 'loud'\n")
    ran = pacsnode("config", "check", "--config", file)
    assert ran.status == 1
    assert [line.partition(" = ")[0] for line in ran.errors.splitlines()] == [
        "pacsnode: dimse.port",
        "pacsnode: log.level",
    ]


def test_show_prints_what_is_in_force(pacsnode, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[dimse]\nport = 104\n")
    ran = pacsnode(
        "config", "show", PACSNODE_CONFIG=str(file), PACSNODE_PEERS="CT1@ct1:105", PACSNODE_AE_TITLE="X"
    )
    shown = tomllib.loads(ran.output)
    assert (shown["dimse"]["port"], shown["node"]["ae_title"]) == (104, "X")
    assert shown["peers"] == {"CT1": "ct1:105"}


def test_show_defaults_ignores_file_and_environment(pacsnode) -> None:
    ran = pacsnode("config", "show", "--defaults", PACSNODE_CONFIG=str(FILE), PACSNODE_DIMSE_PORT="1")
    assert ran.output == FILE.read_text("utf-8")
