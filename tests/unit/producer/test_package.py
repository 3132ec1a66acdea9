"""The package: light to import, its names complete."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import umbel
from umbel_config import errors

HEAVY = ["torch", "celery", "kombu", "fsspec", "fakeredis", "sklearn", "scipy", "rich", "typer"]
HEAVY += ["aiohttp", "dns"]


def test_import_is_light() -> None:
    script = f"import json, sys, umbel; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(answer.stdout) == []


def test_names_are_sorted_unique_and_there() -> None:
    assert umbel.__all__ == sorted(set(umbel.__all__))
    assert all(hasattr(umbel, name) for name in umbel.__all__)


def test_every_error_that_a_producer_can_meet_is_exported() -> None:
    registry_only = {
        "ArtifactTampered",
        "BatchUnsafe",
        "CanaryUnderWay",
        "ModelError",
        "ModelFolderInvalid",
        "ModelLoadFailed",
        "ModelUnavailable",
        "NotReady",
        "NothingToRollBack",
        "PlanInvalid",
        "PolicyInvalid",
        "RouteInvalid",
        "TrafficContended",
        "VersionExists",
        "VersionInUse",
    }
    internal = {"JobError", "MalformedPayload"}
    of_callbacks = {"ReceiverRefused", "SignatureInvalid"}  # a sender's, and a receiver's
    ours = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.UmbelError)
    }
    assert ours - registry_only - internal - of_callbacks <= set(umbel.__all__)


def test_sync_and_async_faces_have_the_same_names() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(umbel.Job) == public(umbel.AsyncJob)
    assert public(umbel.Client) - {"close"} == public(umbel.AsyncClient) - {"aclose"}


def test_version_is_told() -> None:
    assert umbel.__version__[0].isdigit()
