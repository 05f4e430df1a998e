"""Strict configs: what is refused, and with which words."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from lumi.config import Config, FileOnly, parse_config
from lumi.errors import ConfigError


class Inner(Config):
    """A section."""

    steps: int = Field(default=5, gt=0)
    """How many."""


class Outer(Config):
    """A test config."""

    not_identity = frozenset({"output_dir"})

    inner: Inner = Inner()
    name: str
    """Its name."""
    dirs: tuple[Path, ...] = ()
    weights: tuple[float, ...] | None = None
    table: Annotated[tuple[dict[str, int], ...], FileOnly] = ()
    output_dir: Path = Path("out")
    fresh: bool = False


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "config.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    return write


@pytest.mark.parametrize(
    "text, message",
    [
        ({"name": "x", "stpes": 1}, "stpes: unknown key"),
        ({"name": "x", "inner": {"steps": "many"}}, 'inner.steps = "many"'),
        ({"name": "x", "inner": {"steps": 0}}, "inner.steps = 0"),
        ({"name": "x", "inner": {"steps": True}}, "inner.steps"),
        ({"name": 3}, "name = 3"),
        ({}, "name: missing"),
        ('{"name": "x", "name": "y"}', "'name' stands twice"),
        ('{"name": "x",}', "not valid JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_value(file, text, message):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        Outer.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "->" in str(caught.value)


def test_a_missing_file():
    with pytest.raises(ConfigError, match="does not exist"):
        Outer.load("nowhere.json")


def test_the_command_line_overrides_the_file(file):
    path = file({"name": "x", "inner": {"steps": 7}, "table": [{"a": 1}]})
    config = parse_config(
        Outer, ["--config", str(path), "--dirs", "a", "b", "--weights", "0.3", "0.7", "--fresh"], prog="t"
    )
    assert config.inner.steps == 7
    assert config.dirs == (Path("a"), Path("b"))
    assert config.weights == (0.3, 0.7)
    assert config.table == ({"a": 1},)
    assert config.fresh
    assert parse_config(Outer, ["--config", str(path), "--steps", "9"], prog="t").inner.steps == 9
    assert parse_config(Outer, ["--config", str(path), "--output-dir", "z"], prog="t").output_dir == Path("z")


def test_a_required_value_may_come_from_the_command_line_alone(file):
    path = file({"inner": {"steps": 7}})
    assert parse_config(Outer, ["--config", str(path), "--name", "n"], prog="t").name == "n"
    with pytest.raises(SystemExit) as caught:
        parse_config(Outer, ["--config", str(path)], prog="t")
    assert caught.value.code == 2


def test_wrong_values_on_the_command_line(file):
    path = file({"name": "x"})
    with pytest.raises(ConfigError, match=r"command line: inner.steps = -1"):
        parse_config(Outer, ["--config", str(path), "--steps", "-1"], prog="t")
    with pytest.raises(SystemExit) as caught:
        parse_config(Outer, ["--config", str(path), "--nope", "1"], prog="t")
    assert caught.value.code == 2


def test_help_shows_every_option_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_config(Outer, ["--help"], prog="t")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "--steps" in shown
    assert "How many." in shown


def test_identity_leaves_out_what_does_not_change_the_result():
    one, other = Outer(name="x", output_dir=Path("a")), Outer(name="x", output_dir=Path("b"))
    assert one.identity() == other.identity()
    assert "output_dir" in one.resolved()
    assert Outer(name="x", inner=Inner(steps=6)).identity() != one.identity()
