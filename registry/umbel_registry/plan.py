"""What it takes to make models stand as ``models.yaml`` says: a plan, model by model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from umbel_config.errors import (
    ModelError,
    ModelFolderInvalid,
    ModelNotFound,
    PlanInvalid,
    VersionExists,
)
from umbel_registry.audit import differences
from umbel_registry.edits import Standing
from umbel_registry.folder import read_files, read_model_file
from umbel_registry.manifest import Manifest, build_manifest
from umbel_registry.plan_edit import brought_back, wanted_traffic
from umbel_registry.plan_file import ModelPlan, PlanFile, Source
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl
from umbel_registry.versions import in_order

if TYPE_CHECKING:
    from umbel_registry.artifacts import ArtifactStore

Verb = Literal["push", "hold", "bring back", "alias", "route", "shadow", "batching", "retire"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is to be done.

    Attributes:
        model: name of the model.
        verb: what is done.
        thing: what it is done to: ``version 4``, ``route``, ``alias production``.
        before: how that is now; ``None``: it is not there.
        after: how it is to be; ``None``: it is not to be there.
    """

    model: str
    verb: Verb
    thing: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Push:
    """A version that is to be registered.

    Attributes:
        manifest: of its folder; the checks of the real push are still to come.
        source: the folder.
    """

    manifest: Manifest
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSteps:
    """What is to be done to one model.

    Attributes:
        model: its name.
        wanted: how the file says that it is to stand.
        pushes: versions to register, from the lowest to the highest.
        hold: the version that answers meanwhile, where it would change with a push alone.
        new: whether nothing of it is registered yet.
        unrouted: whether it has no route of its own yet.
        steps: all of that, in order.
    """

    model: str
    wanted: ModelPlan
    pushes: tuple[Push, ...]
    hold: str | None
    new: bool
    unrouted: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and what cannot be.

    Attributes:
        models: what is to be done, by model, in the order of the file.
        problems: why nothing can be done about a model, by its name.
    """

    models: tuple[ModelSteps, ...]
    problems: dict[str, ModelError]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in the order in which they are done."""
        return tuple(step for model in self.models for step in model.steps)


def plan(file: PlanFile, store: ArtifactStore, control: TrafficControl) -> Plan:
    """What it takes to make models stand as a file says; changes nothing.

    Args:
        file: as read.
        store: where the files of versions are kept.
        control: of the routes.
    """
    models: list[ModelSteps] = []
    problems: dict[str, ModelError] = {}
    for model, wanted in file.models.items():
        try:
            models.append(_steps_of(_standing(model, control), wanted, store, control.who))
        except ModelError as error:
            problems[model] = error
    return Plan(tuple(models), problems)


def _standing(model: str, control: TrafficControl) -> Standing:
    try:
        return control.read(model)
    except ModelNotFound:
        return Standing(model, 0, Traffic(), {}, 0)


def _steps_of(standing: Standing, wanted: ModelPlan, store: ArtifactStore, by: str) -> ModelSteps:
    pushes = tuple(_pushes(standing, wanted, store))
    known = standing.manifests | {each.manifest.version: each.manifest for each in pushes}
    if not known:
        raise ModelNotFound(
            f"models.{standing.model}: no such model is registered, and no versions: are given to "
            "push."
        )
    whole = replace(standing, manifests={name: known[name] for name in in_order(known)})
    after = wanted_traffic(whole, wanted, by)
    hold = _hold(standing, whole, wanted)
    return ModelSteps(
        model=standing.model,
        wanted=wanted,
        pushes=pushes,
        hold=hold,
        new=not standing.manifests,
        unrouted=standing.traffic.route is None,
        steps=(*_first_steps(standing, hold, pushes), *_traffic_steps(standing, after)),
    )


def _pushes(standing: Standing, wanted: ModelPlan, store: ArtifactStore) -> Iterator[Push]:
    """The versions that are not registered yet."""
    sources = wanted.versions or {}
    for version in in_order(sources):
        source, known = sources[version], standing.manifests.get(version)
        if known is not None and not source.folder.is_dir():
            continue  # registered from another machine; its files need not lie here for ever
        draft = _draft(standing.model, version, source.folder)
        stored = known or store.find(standing.model, version)
        if stored is not None and stored.digest != draft.digest:
            raise VersionExists(
                f"models.{standing.model}.versions.{version}: {source.folder} is not what exists "
                "as that version already, and versions never change. Give the new content a "
                "version of its own."
            )
        if known is None:
            yield Push(draft, source)


def _draft(model: str, version: str, folder: Path) -> Manifest:
    where = f"models.{model}.versions.{version}"
    try:
        file = read_model_file(folder)
        files = read_files(folder, file)
    except ModelFolderInvalid as error:
        raise ModelFolderInvalid(f"{where}: {error}") from None
    if file.name != model:
        raise PlanInvalid(f"{where}: the model in {folder} calls itself {file.name!r}.")
    return build_manifest(file, files, version)


def _hold(standing: Standing, whole: Standing, wanted: ModelPlan) -> str | None:
    """The version that is to go on answering while others come in.

    Without a route the highest version answers, so a push alone would give it all jobs, whatever
    route the file has for it.
    """
    if wanted.route is None or standing.traffic.route is not None or standing.route is None:
        return None
    late = brought_back(whole, wanted).route_among(whole.manifests)
    now = standing.route.versions[0]
    return now if late is None or late.versions[0] != now else None


def _first_steps(standing: Standing, hold: str | None, pushes: tuple[Push, ...]) -> Iterator[Step]:
    model = standing.model
    if hold is not None:
        yield Step(model=model, verb="hold", thing="route", before=None, after=f"{hold}=1")
    for push in pushes:
        thing, folder = f"version {push.manifest.version}", push.source.folder
        near = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        yield Step(model=model, verb="push", thing=thing, before=None, after=str(near))


def _traffic_steps(standing: Standing, after: Traffic) -> Iterator[Step]:
    steps = [
        Step(model=standing.model, verb=_verb(thing, new), thing=thing, before=old, after=new)
        for thing, (old, new) in differences(standing.traffic, after).items()
    ]
    order: tuple[Verb, ...] = ("bring back", "alias", "route", "shadow", "batching", "retire")
    return iter(sorted(steps, key=lambda step: order.index(step.verb)))


def _verb(thing: str, new: str | None) -> Verb:
    kinds: dict[str, Verb] = {"alias": "alias", "shadow": "shadow", "batching": "batching"}
    kind = thing.partition(" ")[0]
    if kind == "retired":
        return "bring back" if new is None else "retire"
    return kinds.get(kind, "route")
