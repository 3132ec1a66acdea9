"""What every command does that has changed the traffic of a model: keep a copy of it."""

from __future__ import annotations

import redis
from rich.text import Text

from umbel_cli.render import errors
from umbel_config.errors import ModelError
from umbel_config.settings import Settings
from umbel_registry import TrafficControl


def after_change(
    settings: Settings, client: redis.Redis, model: str, *, dry_run: bool = False
) -> None:
    """Keeps the traffic of a model beside its artifacts; warns where it cannot, and never fails.

    Where the artifact root is not this machine's, workers do it as soon as they see the change.

    Args:
        settings: namespace and artifact root.
        client: of the Redis.
        model: name of the model.
        dry_run: whether nothing was changed, so that nothing is kept.
    """
    if dry_run:
        return
    try:
        from umbel_registry import ArtifactStore  # noqa: PLC0415  (needs fsspec)
        from umbel_registry.keepsake import Keepsake  # noqa: PLC0415  (with it)

        store = ArtifactStore(settings.artifacts)
        outcome = Keepsake(store, TrafficControl(client, settings.namespace)).keep(model)
    except ImportError:
        return
    except (ModelError, OSError, ValueError) as error:
        _warn(f"The routes of {model} are not kept under {settings.artifacts}: {error}")
        return
    if outcome == "ahead":
        _warn(
            f"Under {settings.artifacts} lie routes of {model} that are ahead of Redis, which must "
            "have lost some of its data; this change is not kept beside them. Look at them and put "
            "them back: umbel models restore --traffic"
        )


def _warn(sentence: str) -> None:
    errors().print(Text.assemble(("warning: ", "bold yellow"), sentence), soft_wrap=True)
