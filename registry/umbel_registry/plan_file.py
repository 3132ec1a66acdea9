"""``models.yaml``: how people want their models to stand, kept in git; read and checked."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import PlanInvalid
from umbel_registry.manifest import ModelName, Version, explain
from umbel_registry.traffic import AliasName, Queued

#: Where the file is looked for.
PLAN_FILE = "configs/models.yaml"

_INT, _TEXT, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "str", "merge"))
_PLAIN_INT = re.compile(r"-?(0|[1-9][0-9]*)")


def _as_text(value: Any) -> Any:
    """A whole number says the same as its digits; 1.10 is 1.1 to YAML, so it is not guessed."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError('expected the name of a version: write it in quotes, as in "1.10"')


def _whole(short: str, value: Any) -> Any:
    """A mapping; a word alone stands for one with a single key."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and short:
        return {short: value}
    raise ValueError(
        "expected " + (f"a word, or keys such as {short}:" if short else "keys, or {}")
    )


def _beside(folder: Path, info: ValidationInfo) -> Path:
    """Relative to the file that names it."""
    return Path((info.context or {}).get("base", ""), folder.expanduser()).resolve()


VersionWord = Annotated[Version, BeforeValidator(_as_text)]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("nothing stands here: write {} for none, or leave the key out")
        return value


class Source(_Section):
    """Where a version comes from.

    Attributes:
        folder: the model folder.
        accept_batch_variance: as for ``push``.
    """

    folder: Annotated[Path, AfterValidator(_beside)]
    accept_batch_variance: bool = False


class Withdrawal(_Section):
    """How a version is withdrawn.

    Attributes:
        queued: what happens to the jobs that wait for it.
        to: with ``reroute`` the version that runs them; default: the largest of the route.
    """

    queued: Queued
    to: VersionWord | None = None

    @model_validator(mode="after")
    def _to_reroute(self) -> Self:
        if self.to is not None and self.queued != "reroute":
            raise ValueError("to: goes with queued: reroute only")
        return self


_Source = Annotated[Source, BeforeValidator(partial(_whole, "folder"))]
_Withdrawal = Annotated[Withdrawal, BeforeValidator(partial(_whole, "queued"))]


class ModelPlan(_Section):
    """How one model is to stand; a section that is not there leaves things as they are.

    Attributes:
        versions: folders to push as that version, unless it is registered already.
        aliases: all aliases of the model.
        route: weights of the versions that answer.
        shadows: fractions of the jobs to copy, by version.
        batching: all live batching policies, each as what differs from the version's own.
        retired: all versions that are withdrawn.
    """

    versions: dict[Version, _Source] | None = None
    aliases: dict[AliasName, VersionWord] | None = None
    route: dict[Version, Weight] | None = None
    shadows: dict[Version, Fraction] | None = None
    batching: dict[Version, BatchPolicy] | None = None
    retired: dict[Version, _Withdrawal] | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        weights, shadows = _given(self.route), _given(self.shadows)
        if self.route is not None and not weights:
            raise ValueError(
                "route: needs a version with a weight above 0; without the key it stays as it is"
            )
        if self.shadows is not None and self.route is None:
            raise ValueError("shadows: are part of a route, so say route: as well")
        for version in shadows:
            if version in weights:
                raise ValueError(f"shadows.{version}: the route has that version answer itself")
        self._check_retired({*weights, *shadows})
        return self

    def _check_retired(self, routed: set[str]) -> None:
        retired = self.retired or {}
        for name, version in (self.aliases or {}).items():
            if version in retired:
                raise ValueError(f"retired.{version}: the alias {name} points to that version")
        for version, withdrawal in retired.items():
            if version in routed:
                raise ValueError(f"retired.{version}: the route needs that version")
            if withdrawal.to in retired:
                raise ValueError(f"retired.{version}.to: {withdrawal.to} is retired as well")

    def policy_of(self, version: str) -> dict[str, Any]:
        """What the file says of a version's batching policy, by name of ``BatchPolicy``.

        Args:
            version: one of ``batching``.
        """
        return (self.batching or {})[version].model_dump(exclude_unset=True)


def _given(values: dict[str, float] | None) -> set[str]:
    """The versions with a number above 0: none is as good as leaving it out."""
    return {version for version, value in (values or {}).items() if value}


class PlanFile(_Section):
    """The whole file.

    Attributes:
        models: how each is to stand, by name; models that are not there are left alone.
    """

    models: dict[ModelName, Annotated[ModelPlan, BeforeValidator(partial(_whole, ""))]]


def read_plan_file(path: Path | str) -> PlanFile:
    """Reads a file; folders in it are relative to it.

    Args:
        path: of the file.

    Raises:
        PlanInvalid: it is missing, no YAML, or a key of it is unknown, wrong or contradicts
            another one.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    except FileNotFoundError:
        raise PlanInvalid(
            f"{path} does not exist. It says how your models should stand; begin with the one "
            "that comes with umbel, configs/models.yaml."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise PlanInvalid(f"{path}{line}: {what}.") from None
    if not isinstance(content, dict):
        raise PlanInvalid(f"{path}: expected the key models: with models by name below it.")
    try:
        return PlanFile.model_validate(content, context={"base": path.parent})
    except ValidationError as error:
        raise PlanInvalid(f"{path}: {explain(error).replace('.[key]', '')}.") from None


class _Loader(yaml.SafeLoader):
    """Takes keys for text as they are written, and refuses what YAML would make something else of.

    Versions are keys here: 1.10 would become 1.1, 010 would become 8, and of a version that is
    named twice only one would count.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if key.tag != _MERGE]
        for key in keys:
            if key.tag not in (_INT, _TEXT):
                raise _unclear(key)
            key.tag = _TEXT
        for word, times in Counter(key.value for key in keys).items():
            if times > 1:
                mark = next(key.start_mark for key in reversed(keys) if key.value == word)
                raise yaml.constructor.ConstructorError(
                    None, None, f"{word} stands there twice", mark
                )
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if node.tag == _INT and not _PLAIN_INT.fullmatch(node.value):
            raise _unclear(node)
        return node


def _unclear(node: yaml.Node) -> yaml.constructor.ConstructorError:
    if isinstance(node, yaml.ScalarNode):
        what = f'YAML does not read {node.value} as it is written: put it in quotes, "{node.value}"'
    else:
        what = "a key is a word, not a list or mapping"
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)
