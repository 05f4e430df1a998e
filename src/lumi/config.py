"""Strict configs: JSON in, command-line overrides on top, the resolved whole written beside every artifact.

    config/tiny.json --\
                        +--> a frozen, validated object --> identity() --> the artifact's hash
    --max_steps 2000 --/

An unknown key, a wrong type or an impossible value is a ConfigError that names file, key and value, raised
before any work starts. Sections of a file are flattened on the command line: ``{"schedule": {"max_steps":
..}}`` is ``--max_steps``; field names are therefore unique within one config.
"""

import argparse
import copy
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from lumi.errors import ConfigError


class FileOnly:
    """Marks a field that only a file can give, as it has no shape on a command line: ``Annotated[..., FileOnly]``."""


class Positional:
    """Marks a field that is given without its name on the command line: ``Annotated[Path, Positional]``."""


class Config(BaseModel):
    """Base of every config: frozen, strict, no unknown keys.

    ``not_identity`` names the fields that do not change what a run produces (where it is written, how many
    workers): they are left out of the hash by which a stage finds its finished output.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    not_identity: ClassVar[frozenset[str]] = frozenset()

    def resolved(self) -> dict[str, Any]:
        """Return the whole config as JSON values, defaults filled in."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return what decides the output: ``resolved()`` without ``not_identity``, sections included."""
        out: dict[str, Any] = {}
        for name, value in self.resolved().items():
            if name in self.not_identity:
                continue
            section = getattr(self, name)
            out[name] = section.identity() if isinstance(section, Config) else value
        return out

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> Self:
        """Read one JSON file; ``overrides`` are JSON values that stand in for the file's.

        Raises:
            ConfigError: not there, not JSON, a key twice, an unknown key, a wrong type or value.
        """
        return cls.from_values({**read_json_object(Path(path)), **overrides}, where=str(path))

    @classmethod
    def from_values(cls, data: dict[str, Any], where: str) -> Self:
        """Build from JSON values; ``where`` names their source in an error."""
        try:
            # Through JSON text: in strict mode only JSON input may give a list for a tuple, a string for a path.
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise _config_error(error, where) from None


ConfigT = TypeVar("ConfigT", bound=Config)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, refusing duplicate keys.

    Raises:
        ConfigError: missing, unreadable, not an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out:
                raise ConfigError(f"{path}: key {key!r} stands twice", "keep one of the two")
            out[key] = value
        return out

    try:
        data = json.loads(path.read_text(encoding="utf8"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist", "see the files in config/, or check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}", "check the path and its rights") from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}",
            "mend that line (JSON has no comments)",
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(data).__name__}", "wrap it in { }")
    return data


def parse_config(cls: type[ConfigT], argv: Sequence[str], *, prog: str) -> ConfigT:
    """Build a config from ``--config FILE`` (when given) and the other options on the command line.

    Raises:
        ConfigError: as `Config.load`, for values on the command line too.
        SystemExit: 2 for an unknown or malformed option, 0 after ``--help``.
    """
    import tyro

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    found, rest = finder.parse_known_args(argv)
    from_file = read_json_object(found.config) if found.config else {}
    default = _partial(cls, from_file, str(found.config)) if found.config else None
    about = (cls.__doc__ or "").strip() + "\n\n--config FILE reads a JSON file first; options here override it."
    mirror = _mirror(cls)
    options: dict[str, Any] = {} if default is None else {"default": _reflect(mirror, default)}
    parsed = tyro.cli(
        mirror,
        prog=prog,
        args=rest,
        description=about,
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,),
        **options,
    )
    values = json.loads(json.dumps(dataclasses.asdict(parsed), default=str))
    file_only = {name: from_file[name] for name in from_file if name not in values}
    return cls.from_values({**file_only, **values}, where="command line")


def _partial(cls: type[ConfigT], values: dict[str, Any], where: str) -> Config:
    """Check a file's values while fields that the command line must add are still missing (they are None)."""
    missing = {n: (Any, None) for n, info in cls.model_fields.items() if info.is_required() and n not in values}
    partial: type[Config] = create_model(cls.__name__, __base__=cls, **missing)  # type: ignore[call-overload]
    return partial.from_values(values, where)


def _mirror(cls: type[Config]) -> type[Any]:
    """Make a plain dataclass with a config's fields: tyro parses into it, and all checking stays in one place."""
    from tyro.conf import Positional as WithoutName
    from tyro.conf import arg

    fields: list[Any] = []
    for name, info in cls.model_fields.items():
        if FileOnly in info.metadata:
            continue
        kind: Any = info.annotation
        nested = isinstance(kind, type) and issubclass(kind, Config)
        kind = _mirror(kind) if nested else Annotated[kind, arg(help=info.description or "")]
        if Positional in info.metadata:
            kind = WithoutName[kind]  # type: ignore[misc]
        if info.is_required():
            fields.append((name, kind, dataclasses.field(kw_only=True)))
        else:
            value = info.get_default(call_default_factory=True)
            made = functools.partial(_reflect, kind, value) if nested else functools.partial(copy.copy, value)
            fields.append((name, kind, dataclasses.field(kw_only=True, default_factory=made)))
    mirror = dataclasses.make_dataclass(cls.__name__, fields)
    mirror.__doc__ = cls.__doc__
    return mirror


def _reflect(mirror: type[Any], config: Config) -> Any:
    """Return the config's values in the shape of its mirror; those not known yet must come from the command line."""
    from tyro import MISSING

    values = {}
    unknown = {name for name, info in type(config).model_fields.items() if info.annotation is Any}
    for field in dataclasses.fields(mirror):
        value = getattr(config, field.name)
        if isinstance(value, Config):
            value = _reflect(field.type, value)  # type: ignore[arg-type]
        values[field.name] = MISSING if field.name in unknown else value
    return mirror(**values)


def _config_error(error: ValidationError, where: str) -> ConfigError:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key}: missing")
        else:
            shown = "" if isinstance(problem["input"], dict) else f" = {json.dumps(problem['input'], default=str)}"
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {key}{shown}: {message[0].lower()}{message[1:]}")
    return ConfigError("\n".join(lines), "correct the value; `--help` lists every key with its meaning and default")
