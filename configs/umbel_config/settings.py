"""The one settings model: defaults < YAML file < ``UMBEL_*`` environment < explicit arguments."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import yaml
from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from umbel_config.callback_settings import CallbackSettings
from umbel_config.errors import ConfigError

#: Where the settings file is looked for, unless ``UMBEL_CONFIG`` names one.
CONFIG_FILES = ("configs/umbel.yaml", "umbel.yaml")


def default_state_dir() -> Path:
    """The user's state folder for umbel (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "umbel"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _words(value: Any) -> Any:
    """Lets ``UMBEL_QUEUES=a,b`` stand for a list, as the flag does."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return value


#: Settings that are lists of words.
_LISTS = {"queues", "allowed_modules", "pinned_models"} | {
    name
    for name, field in CallbackSettings.model_fields.items()
    if get_origin(field.annotation) is tuple
}


class Settings(CallbackSettings, BaseSettings):
    """Everything that can be set, with one name in file, environment and flag.

    A field ``lease_ms`` is ``lease_ms:`` in the YAML file, ``UMBEL_LEASE_MS`` in the environment
    and ``--lease-ms`` on the command line. Times end in ``_ms`` or ``_s``.
    """

    model_config = SettingsConfigDict(
        env_prefix="UMBEL_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss:// or unix:// address of the Redis to use; "
        "without it an embedded Redis is started under state_dir.",
    )
    namespace: str = Field(
        "umbel",
        pattern=r"^[a-z][a-z0-9_-]{0,31}$",
        description="Prefix of every Redis key; two installations can share a Redis.",
    )
    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=default_state_dir,
        description="Folder of the embedded Redis and of local artifacts.",
    )
    artifact_root: str = Field(
        "",
        description="Folder or fsspec URL of the model artifacts; default: state_dir/artifacts.",
    )
    redis_connect_timeout_s: float = Field(
        5.0, gt=0, description="Seconds to wait for a connection."
    )
    redis_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for one reply.")
    redis_retries: int = Field(
        3, ge=0, description="Times a command is sent again after a lost connection."
    )

    max_payload_bytes: int = Field(
        16 * 2**20, gt=0, description="Largest encoded input of one job, in bytes."
    )
    result_ttl_s: int = Field(3600, gt=0, description="Seconds a finished job stays readable.")
    tombstone_ttl_s: int = Field(
        3600, gt=0, description="Seconds after that in which it is known to have existed."
    )
    dead_ttl_s: int = Field(
        604_800, gt=0, description="Seconds a dead letter is kept: a failed job with its input."
    )
    max_dead: int = Field(
        1000, ge=0, description="Dead letters kept of one lane; the oldest give way."
    )
    max_dead_bytes: int = Field(
        64 * 2**20, ge=0, description="Bytes of recorded batches kept for them in one lane."
    )
    lease_ms: int = Field(
        10_000, ge=200, description="Time without a sign of life after which a batch is taken back."
    )
    max_attempts: int = Field(
        3, ge=1, le=99, description="Times a job may be lost with its worker before it fails."
    )

    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        ("umbel",), min_length=1, description="Celery queues that this worker serves."
    )
    pool: Literal["threads", "prefork"] = Field(
        "threads", description="Celery pool: threads on CPU, prefork (spawned) for one GPU each."
    )
    concurrency: int = Field(1, ge=1, description="Batches that one worker runs side by side.")
    torch_threads: int = Field(
        0, ge=0, description="Torch threads per batch; 0: all cores but one, shared among them."
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where models run."
    )
    max_loaded_mb: int = Field(
        0,
        ge=0,
        description="MB (of 2^20 bytes) of models that a process keeps loaded, as measured; 0: no "
        "bound. With prefork each process of the pool has so much.",
    )
    pinned_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Models that are never unloaded once they are loaded: digits, or digits@3.",
    )
    drain_budget_ms: int = Field(
        2_000, ge=1, description="Longest time one Celery task keeps draining a lane."
    )
    idle_ms: int = Field(
        500,
        ge=0,
        le=10_000,
        description="How long a drain whose lane is empty stays for the next job, which it then "
        "takes without a Celery message; others that need its slot end that.",
    )
    grace_s: float = Field(
        20.0,
        ge=0,
        description="Seconds a stopping worker gives its batches before it hands them back.",
    )
    flusher: bool = Field(default=True, description="Whether a worker also runs a flusher.")
    allowed_modules: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Python modules that handlers and factories may come from."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )

    @model_validator(mode="before")
    @classmethod
    def _split_words(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in _LISTS & data.keys():
                data[name] = _words(data[name])
        return data

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic calls by keyword)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Orders the sources: arguments over environment over file over defaults."""
        file = config_file()
        if file is None:
            return init_settings, env_settings
        yaml_settings = YamlConfigSettingsSource(settings_cls, yaml_file=file)
        return init_settings, env_settings, yaml_settings

    @property
    def artifacts(self) -> str:
        """The artifact root in force: ``artifact_root``, or a folder under ``state_dir``."""
        return self.artifact_root or str(self.state_dir / "artifacts")

    def masked(self) -> dict[str, Any]:
        """All settings as plain values fit for a log: passwords are masked."""
        shown = self.model_dump(mode="json")
        if self.redis_url is not None:
            shown["redis_url"] = mask_url(self.redis_url.get_secret_value())
        return shown


def config_file() -> Path | None:
    """The settings file in force, or ``None``.

    Raises:
        ConfigError: ``UMBEL_CONFIG`` names a file that does not exist.
    """
    named = os.environ.get("UMBEL_CONFIG")
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"UMBEL_CONFIG names {named!r}, which is not a file.")
        return Path(named)
    return next((Path(name) for name in CONFIG_FILES if Path(name).is_file()), None)


def load_settings(**overrides: Any) -> Settings:
    """Reads the settings from file and environment, then applies ``overrides``.

    Args:
        **overrides: values that win over file and environment; ``None`` means "not given".

    Raises:
        ConfigError: a value is out of range, a name is unknown, or the file is no YAML mapping.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"Cannot read the settings file {config_file()}: {error}") from None


def environment(settings: Settings) -> dict[str, str]:
    """The ``UMBEL_*`` variables that give a child process these settings, passwords included.

    They win over any settings file that the child may find. An empty list is written as a lone
    comma and an empty ``artifact_root`` as the root in force: empty variables count as not set.

    Args:
        settings: as loaded; without a ``redis_url`` the child has none either.
    """
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    values["artifact_root"] = settings.artifacts
    return {
        f"UMBEL_{name.upper()}": _as_text(value)
        for name, value in values.items()
        if value is not None
    }


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(_as_text(each) for each in value) or ","
    return str(value)


def mask_url(url: str) -> str:
    """A Redis URL with its password replaced by ``***``, wherever it stands."""
    scheme, separator, rest = re.sub(r"(?<=[?&]password=)[^&]*", "***", url).partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if not at or not colon:
        return f"{scheme}{separator}{rest}"
    return f"{scheme}{separator}{user}:***@{host}"


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        lines.append(f"{name} (UMBEL_{name.upper()}): {problem['msg']}")
    return "Invalid settings: " + "; ".join(lines)
