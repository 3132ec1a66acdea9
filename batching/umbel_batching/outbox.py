"""The verbs of the outbox: callbacks that are due are leased, reported, put back, called for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from umbel_batching.calls import keys_of
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import SLOT_LENGTH, UID_LENGTH
from umbel_batching.retention import Retention
from umbel_batching.scripts import Call
from umbel_config.settings import Settings

T = TypeVar("T")

#: What stands on the flushers' list in place of a slot.
OUTBOX = "outbox"
_REPLAYS_WIDTH = 2
#: Where a uid tells that it comes from an idempotency key.
_VERSION_AT, _KEYED = 12, "8"
Verdict = Literal["delivered", "again", "dead", "gone"]
Health = Literal["well", "there", "failing", "sick", "busy", "unknown"]


@dataclass(frozen=True, slots=True)
class Entry:
    """The callback of one run of a job.

    Attributes:
        slot: lane of the job.
        uid: the job.
        replays: how often it had been replayed.
        url: a hash of the URL, where callbacks may share POSTs.
    """

    slot: str
    uid: str
    replays: int
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an entry as it stands in the outbox."""
        end = SLOT_LENGTH + UID_LENGTH
        url = end + _REPLAYS_WIDTH
        return cls(text[:SLOT_LENGTH], text[SLOT_LENGTH:end], int(text[end:url]), text[url:])

    @property
    def text(self) -> str:
        """The entry as it stands in the outbox."""
        return f"{self.slot}{self.uid}{self.replays:0{_REPLAYS_WIDTH}d}{self.url}"

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return f"{self.slot}-{self.uid}"

    @property
    def message_id(self) -> str:
        """The name of the callback: the same for every attempt, another one for another run."""
        return f"{self.job_id}-{self.replays}" if self.replays else self.job_id

    def webhook_id(self, created_ms: int) -> str:
        """The ``webhook-id`` of a callback with a POST of its own.

        An idempotency key that is used anew, when all of its first job is gone, leads to the same
        job id: the arrival tells the two apart.

        Args:
            created_ms: arrival of the job, in ms since 1970.
        """
        again = self.uid[_VERSION_AT] == _KEYED
        return f"{self.message_id}-{created_ms}" if again else self.message_id


@dataclass(frozen=True, slots=True)
class Post:
    """One POST to make, under a lease.

    Attributes:
        queue: of the outbox.
        name: the entry itself, or ``=`` and the id of a parcel.
        lease_ends: when the lease ends, in ms by the server's clock; the fence for the report.
        entries: the callbacks that go out in it.
    """

    queue: str
    name: str
    lease_ends: str
    entries: tuple[Entry, ...]

    @property
    def receiver(self) -> str:
        """The authority of the URL."""
        return self.queue.partition("#")[0]

    @property
    def message_id(self) -> str:
        """Its name, and the ``webhook-id`` of a parcel: the same for every attempt."""
        return self.name[1:] if self.is_parcel else self.entries[0].message_id

    @property
    def is_parcel(self) -> bool:
        """Whether it holds results of several jobs, or may."""
        return self.name.startswith("=")


@dataclass(frozen=True, slots=True)
class Leased:
    """What one lease took.

    Attributes:
        next_ms: milliseconds until the next callback is due; -1: none waits.
        posts: what to send.
    """

    next_ms: int
    posts: list[Post]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a POST.

    Attributes:
        post: as it was leased.
        verdict: ``delivered``; ``again`` later; ``dead``: given up; ``gone``: nothing to deliver.
        health: what it says about the receiver: ``well``; ``there``, but refusing this message;
            ``failing`` at it; ``sick``: not reached, or down; ``busy``: it asks for time; or
            ``unknown``.
        status: HTTP status; 0 for none.
        took_ms: milliseconds that the attempt took.
        note: what happened, in words.
        pause_ms: milliseconds until the next attempt, for ``again``.
        alone_ms: milliseconds for which a busy receiver wants no POST at all.
    """

    post: Post
    verdict: Verdict
    health: Health
    status: int = 0
    took_ms: int = 0
    note: str = ""
    pause_ms: int = 0
    alone_ms: int = 0


@dataclass(frozen=True, slots=True)
class OutboxCalls:
    """Makes the calls of one namespace's outbox.

    Attributes:
        namespace: prefix of every key.
        keep: how long what is kept of ended jobs stays.
        host_concurrency: POSTs under way to one receiver, at most.
    """

    namespace: str
    keep: Retention = field(default_factory=Retention)
    host_concurrency: int = 32

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The calls for ``settings``."""
        keep = Retention.of(settings)
        return cls(settings.namespace, keep, settings.callback_host_concurrency)

    def lease(
        self,
        token: str,
        *,
        lease_ms: int,
        posts: int,
        parcel: str,
        batch_size: int = 100,
        there_ms: int = 5000,
        to_one: int | None = None,
    ) -> Call[Leased]:
        """Takes up to ``posts`` POSTs that are due, from as many receivers as wait.

        Args:
            token: name of the sender.
            lease_ms: milliseconds after which another sender may take them.
            posts: how many at most.
            parcel: a new name for parcels that are made.
            batch_size: most callbacks in one parcel.
            there_ms: milliseconds for which no other sender is called.
            to_one: POSTs under way to one receiver at most; default: ``host_concurrency``.
        """
        most = self.host_concurrency if to_one is None else to_one
        args: list[Any] = [token, lease_ms, posts, most, batch_size, there_ms, parcel]
        args += [self.keep.callback_ttl_s * 1000]
        return self._call("lease", args, _leased)

    def read(self, entries: Sequence[Entry], most: int) -> Call[list[tuple[bytes, bytes]]]:
        """Reads the records and deliveries of jobs; empty for what is not there.

        Args:
            entries: name the jobs.
            most: bytes of each record, counted from its start.
        """
        keys = [key for entry in entries for key in self._job(entry.slot, entry.uid)[:2]]
        return Call(
            "letters", keys, (most,), lambda reply: list(zip(reply[::2], reply[1::2], strict=True))
        )

    def report(self, report: Report) -> Call[list[Entry] | None]:
        """Writes what became of a POST, if its lease still holds or it was delivered.

        Returns (when run):
            Undelivered callbacks that gave way to new ones, to be loosened; ``None`` where nothing
            was written.
        """
        post = report.post
        args: list[Any] = [post.queue, post.name, post.lease_ends, report.verdict, report.health]
        args += [report.pause_ms, report.alone_ms, self.host_concurrency, self.keep.text]
        args += [f"{report.status}|{report.took_ms}|{_plain(report.note)}"]
        args += [entry.text for entry in post.entries]
        more = [key for entry in post.entries for key in self._job(entry.slot, entry.uid)]
        return self._call("report", args, _gave_way, more)

    def loosen(self, entries: Sequence[Entry]) -> Call[int]:
        """Has the records of undelivered callbacks that gave way go when other results go."""
        keys = [key for entry in entries for key in self._job(entry.slot, entry.uid)]
        return Call("loosen", keys, (self.keep.text,), int)

    def redeliver(self, slot: str, uid: str) -> Call[str]:
        """Has the callback of a job delivered once more, under the same ``webhook-id``.

        Returns (when run):
            Empty if it waits now, else why not: ``unknown``, ``not ended`` or ``none``.
        """
        return self._call("redeliver", (slot, uid), bytes.decode, self._job(slot, uid))

    def summon(self, *, there: int, patience_ms: int, tokens: Sequence[str]) -> Call[int]:
        """Decides how many senders are called now, and notes them as called.

        Args:
            there: senders that have announced themselves.
            patience_ms: milliseconds after which an unanswered call counts as lost.
            tokens: names for them; the first ones are used.
        """
        return self._call("summon", (there, patience_ms, *tokens), int)

    def rest(self, token: str) -> Call[int]:
        """Ends the turn of a sender; returns how many queues of the outbox wait."""
        return self._call("rest", (token,), int)

    def rouse(self, *, now: bool) -> Call[bool]:
        """Puts an outbox with callbacks back on the flushers' list; ``now``: to be looked at."""
        return self._call("rouse", (int(now),), bool)

    def _job(self, slot: str, uid: str) -> tuple[str, str, str]:
        keys = lane_keys(self.namespace, slot)
        return keys.job + uid, keys.delivery + uid, shared_keys(self.namespace).once + uid

    def _call(
        self,
        script: str,
        args: Sequence[Any],
        parse: Callable[[Any], T],
        more: Sequence[str] = (),
    ) -> Call[T]:
        return Call(script, (*keys_of(self.namespace, "", script), *more), args, parse)


def parse_undelivered(text: str) -> tuple[Entry, str]:
    """Entry and queue of an undelivered callback."""
    entry, _, queue = text.partition(" ")
    return Entry.parse(entry), queue


def outbox_key(namespace: str, queue: str) -> str:
    """The key of a queue of the outbox."""
    return shared_keys(namespace).outbox + queue


def _leased(reply: Any) -> Leased:
    next_ms, posts = reply
    return Leased(int(next_ms), [_post(*each) for each in posts])


def _post(queue: bytes, name: bytes, lease_ends: bytes, entries: list[bytes]) -> Post:
    parsed = tuple(Entry.parse(entry.decode()) for entry in entries)
    return Post(queue.decode(), name.decode(), lease_ends.decode(), parsed)


def _gave_way(reply: Any) -> list[Entry] | None:
    return None if reply is None else [parse_undelivered(each.decode())[0] for each in reply]


def _plain(note: str) -> str:
    return " ".join(note.split())[:200]
