"""Configuration file, documentation and settings say the same."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pacsnode.cli.config import as_toml, toml_value
from pacsnode.config import (
    PEERS_VARIABLE,
    SHORT_NAMES,
    Forward,
    Prefetch,
    Setting,
    Settings,
    load,
    settings_table,
)

REPOSITORY = Path(__file__).resolve().parent.parent
FILE = REPOSITORY / "conf" / "pacsnode.toml"
PAGE = REPOSITORY / "docs" / "configuration.md"

OPERATIONS = REPOSITORY / "docs" / "operations.md"
LEVELS = {"debug", "info", "warning", "error", "exception"}

ROWS = list(settings_table())


def row_of_page(setting: Setting) -> str:
    default = toml_value(setting.default)
    return (
        f"| `{setting.name}` | `{default}` | {setting.allowed} | `{setting.variable}` | {setting.meaning} |"
    )


def test_the_file_is_what_config_show_prints() -> None:
    assert FILE.read_text("utf-8") == as_toml(Settings()), (
        "pacsnode config show --defaults > conf/pacsnode.toml"
    )


def test_the_file_sets_every_key_to_its_default() -> None:
    assert load(FILE, environ={}) == Settings()
    document = tomllib.loads(FILE.read_text("utf-8"))
    assert {(section, key) for section, table in document.items() for key in table} == {
        (row.section, row.key) for row in ROWS
    }


@pytest.mark.parametrize("setting", ROWS, ids=lambda row: row.name)
def test_the_page_has_a_row_for_every_setting(setting: Setting) -> None:
    assert row_of_page(setting) in PAGE.read_text("utf-8").splitlines()


@pytest.mark.parametrize(("section", "model"), [("forward", Forward), ("prefetch", Prefetch)])
def test_the_page_has_a_row_for_every_key_of_a_rule(section: str, model: type[BaseModel]) -> None:
    rows = re.findall(
        rf"^\| `{section}\.NAME\.(\w+)` \| .* \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert rows == [(key, row.description) for key, row in model.model_fields.items()]


def test_the_page_has_no_row_for_anything_else() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows == [row.name for row in ROWS]


def logged_events() -> Iterator[tuple[str, str]]:
    """Name and level of every event, as `log.info("room.noun_past", ...)` has them."""
    for module in (REPOSITORY / "pacsnode").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(name)), *_]):
                    if level in LEVELS:
                        yield name, "error" if level == "exception" else level


def test_every_event_of_the_log_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (\w+) \|", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(set(logged_events()))


def test_what_is_shown_is_read_back() -> None:
    settings = Settings.model_validate(
        {
            "node": {"ae_title": "MR 1", "storage": "/data/ö"},
            "dimse": {"extra_sop_classes": ["1.2.3", "1.2.4"], "idle_timeout": 0.5},
            "storage": {"reserve": "1 MB"},
            "query": {"lenient_hierarchy": True},
            "peers": {"A B": "[::1]:104", "C": {"host": "c.example", "port": 105}},
        }
    )
    assert Settings.model_validate(tomllib.loads(as_toml(settings))) == settings


def test_the_page_names_the_variables_that_have_no_row() -> None:
    text = PAGE.read_text("utf-8")
    for variable in (*SHORT_NAMES, PEERS_VARIABLE, "PACSNODE_CONFIG"):
        assert f"`{variable}`" in text


@pytest.mark.parametrize("page", [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/*.md")], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
