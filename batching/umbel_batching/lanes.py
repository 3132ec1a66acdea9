"""Lanes and ids: which jobs may share a batch, and how a job's id leads back to its lane."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

from uuid_utils import uuid7

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import JobNotFound

#: Length of a slot, the short hash that names a lane in its keys and in its jobs' ids.
SLOT_LENGTH = 8
#: Length of a job's uid inside its lane: a UUIDv7 in hexadecimal.
UID_LENGTH = 32
_ID_LENGTH = SLOT_LENGTH + 1 + UID_LENGTH
#: Behind the version in the name of a lane whose jobs are copies; no version has such a sign.
SHADOW = "~shadow"
_HEX = frozenset("0123456789abcdef")
_BASE32 = frozenset("abcdefghijklmnopqrstuvwxyz234567")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The waiting line of the jobs that may share a batch: those of one model version.

    Attributes:
        model: name of the model.
        version: its version.
        shadow: whether its jobs are copies, whose outputs are compared and go to nobody.
        queue: the Celery queue whose workers serve the lane.
        policy: how its jobs are gathered, used when the lane is seen for the first time.
    """

    model: str
    version: str
    queue: str = "umbel"
    policy: BatchPolicy = field(default_factory=BatchPolicy)
    shadow: bool = False

    @property
    def name(self) -> str:
        """The lane's name as people see it, for example ``digits@3``."""
        return f"{self.model}@{self.version}{SHADOW if self.shadow else ''}"

    @property
    def slot(self) -> str:
        """The lane's slot: the hash tag of all its keys and the first part of its jobs' ids."""
        return slot_of(self.name)


@lru_cache(maxsize=4096)
def slot_of(name: str) -> str:
    """The slot of the lane ``name``: eight characters of base32 over its BLAKE2s hash."""
    digest = hashlib.blake2s(name.encode(), digest_size=5).digest()
    return base64.b32encode(digest).decode().lower()


def split_name(name: str) -> tuple[str, str]:
    """Model and version of the lane ``name``."""
    model, _, version = name.removesuffix(SHADOW).rpartition("@")
    return model, version


def is_shadow(name: str) -> bool:
    """Whether the jobs of the lane ``name`` are copies that are only compared."""
    return name.endswith(SHADOW)


def new_uid() -> str:
    """A new UUIDv7 (RFC 9562) as 32 hexadecimal digits; later ones sort after earlier ones."""
    return uuid7().hex


def keyed_uid(model: str, key: str) -> str:
    """The uid that an idempotency key stands for: the same key always leads to the same job.

    A UUIDv8 (RFC 9562) over a BLAKE2b hash: its version tells the scripts that the job has a key.

    Args:
        model: name of the model; each has its own keys.
        key: the idempotency key.
    """
    digest = hashlib.blake2b(f"{model}\0{key}".encode(), digest_size=16).hexdigest()
    return f"{digest[:12]}8{digest[13:16]}8{digest[17:]}"


def split_id(job_id: str) -> tuple[str, str]:
    """Slot and uid of a job's id.

    Raises:
        JobNotFound: the text is no id of a job.
    """
    if not isinstance(job_id, str):
        raise JobNotFound(f"A job id is text, not {type(job_id).__name__}.")
    slot, dash, uid = job_id[:SLOT_LENGTH], job_id[SLOT_LENGTH:][:1], job_id[SLOT_LENGTH + 1 :]
    well_formed = len(job_id) == _ID_LENGTH and dash == "-"
    if not well_formed or not _BASE32.issuperset(slot) or not _HEX.issuperset(uid):
        raise JobNotFound(
            f"{job_id[:64]!r} is no job id; ids look like 'k3f9x2ab-0193…', {_ID_LENGTH} long.",
            job_id=job_id[:64],
        )
    return slot, uid
