"""Settings of callbacks that cannot be read, contradict each other, or open too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from itertools import accumulate
from typing import Final

from umbel_callbacks.body import Composer
from umbel_callbacks.guard import Guard
from umbel_callbacks.signing import Secrets
from umbel_cli.doctor.findings import Finding, Level, listed, ok, problem, told, warning
from umbel_config.errors import ConfigError, InvalidInput
from umbel_config.settings import Settings

_CHECK: Final = "settings.callbacks"
#: Where most clouds tell the secrets of a machine to whoever asks from it.
_METADATA: Final = "http://169.254.169.254/"


def judge_callback_settings(settings: Settings) -> list[Finding]:
    """What is amiss with the settings of callbacks; one finding that all is well if nothing is.

    Args:
        settings: as loaded.

    Raises:
        ModuleNotFoundError: name servers are set, and what asks them is not installed here.
    """
    found = [finding for rule in _RULES for finding in rule(settings)]
    return found or [ok(_CHECK, "All can be read, and nothing contradicts itself")]


def _readable(settings: Settings) -> Iterator[Finding]:
    for read in (Secrets.of, Guard.of, Composer.of, _name_servers):
        try:
            read(settings)
        except ConfigError as error:
            yield told(_CHECK, Level.PROBLEM, str(error))


def _name_servers(settings: Settings) -> None:
    if settings.callback_nameservers:
        from umbel_callbacks.names import name_service  # noqa: PLC0415  (needs dnspython)

        name_service(settings).close()


def _allowed(settings: Settings) -> Iterator[Finding]:
    for what, opens in (("every address", _is_all), ("the metadata of clouds", _has_metadata)):
        entries = [entry for entry in settings.callback_allow if opens(entry)]
        if entries:
            yield warning(
                _CHECK,
                f"callback_allow opens {what} to whoever submits a job: {listed(entries)}",
                "Name hosts, or the networks of receivers alone",
            )


def _is_all(entry: str) -> bool:
    try:
        return ip_network(entry).prefixlen == 0
    except ValueError:  # a name, or an address with a port
        return False


def _has_metadata(entry: str) -> bool:
    try:
        Guard((entry,), ()).check_url(_METADATA)
    except (ConfigError, InvalidInput):
        return False
    return not _is_all(entry)


def _timeouts(settings: Settings) -> Iterator[Finding]:
    whole = settings.callback_timeout_s
    for name in ("callback_connect_timeout_s", "callback_read_timeout_s"):
        part = getattr(settings, name)
        if whole < part:
            yield warning(
                _CHECK,
                f"callback_timeout_s ({whole:g}) is below {name} ({part:g}), which never passes",
                f"Raise callback_timeout_s, or lower {name}",
            )


def _schedule(settings: Settings) -> Iterator[Finding]:
    ttl_s, moments = settings.callback_ttl_s, list(accumulate(settings.callback_schedule_s))
    late = sum(moment > ttl_s for moment in moments)
    if late:
        yield warning(
            _CHECK,
            f"callback_ttl_s ({ttl_s}) is below the sum of callback_schedule_s ({moments[-1]:g}): "
            f"the last {late} of {len(moments) + 1} attempts never come",
            "Raise callback_ttl_s, or leave out the last pauses",
        )


def _queue(settings: Settings) -> Iterator[Finding]:
    if settings.callback_queue in settings.queues and len(settings.queues) > 1:
        yield problem(
            _CHECK,
            f"queues holds {settings.callback_queue}, the queue of callbacks, beside others: no "
            "worker starts with it",
            "Take it out of queues, and run umbel sender for callbacks",
        )


_RULES: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    _readable,
    _allowed,
    _timeouts,
    _schedule,
    _queue,
)
