"""Puts a sender together from the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from umbel_batching.outbox import OutboxCalls
from umbel_batching.scripts import AsyncRunner
from umbel_callbacks.body import Composer
from umbel_callbacks.encodings import Encodings
from umbel_callbacks.guard import Guard
from umbel_callbacks.letters import Letters
from umbel_callbacks.names import name_service
from umbel_callbacks.posting import Poster
from umbel_callbacks.reports import Reports
from umbel_callbacks.retries import Retries
from umbel_callbacks.sender import Sender
from umbel_callbacks.signing import Secrets
from umbel_config.connect import connect_async
from umbel_config.errors import ConfigError
from umbel_config.settings import Settings
from umbel_registry.keys import model_key
from umbel_registry.manifest import Manifest
from umbel_registry.resolve import pick


def secrets_of(settings: Settings) -> Secrets:
    """The secrets that sign callbacks.

    Raises:
        ConfigError: one is malformed, or there is none.
    """
    secrets = Secrets.of(settings)
    if not secrets:
        raise ConfigError(
            "Callbacks are signed, and callback_secrets is empty: make a secret with `umbel "
            "callbacks secret`, give it to your receivers, and set UMBEL_CALLBACK_SECRETS."
        )
    return secrets


async def make_sender(settings: Settings) -> Sender:
    """A sender with everything it needs, for the running event loop; close it with ``aclose``.

    Args:
        settings: with a ``redis_url``.

    Raises:
        ConfigError: a setting of callbacks is malformed, or there is no secret.
    """
    secrets, composer = secrets_of(settings), Composer.of(settings)
    guard, names = Guard.of(settings), name_service(settings)
    runner = AsyncRunner(connect_async(settings, client_name="umbel-sender"))
    calls = OutboxCalls.of(settings)
    encodings = Encodings(_manifests(runner.client, settings.namespace))
    return Sender(
        runner=runner,
        calls=calls,
        letters=Letters(runner, calls, composer, encodings, settings.callback_max_bytes),
        poster=Poster(settings, guard, names),
        retries=Retries.of(settings),
        secrets=secrets,
        reports=Reports(runner, calls),
        settings=settings,
    )


def _manifests(client: Any, namespace: str) -> Callable[[str, str], Awaitable[Manifest]]:
    async def get(model: str, version: str) -> Manifest:
        return pick(model, version, await client.hgetall(model_key(namespace, model)), known=())

    return get
