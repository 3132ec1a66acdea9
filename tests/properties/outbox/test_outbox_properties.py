"""Whatever is done to the outbox in whatever order, and however often, each callback has its place.

A Hypothesis state machine drives the scripts on a real Redis beside a plain Python model of one
lane and three URLs, one of them with parcels. After each step every queue, parcel, lease, breaker
and delivery is compared with the model, so a callback that is lost, doubled, sent for a job that
lives or decided by a sender without a lease is found. Each verb may be sent twice.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection
from operator import sub
from typing import TYPE_CHECKING, Any

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from umbel_batching.calls import Calls
from umbel_batching.deliveries import parse_delivery
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.outbox import OUTBOX, Entry, OutboxCalls, Post, Report, Verdict
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import (
    _SPANS,
    NO_REPLY,
    Priority,
    State,
    encode_callback,
    parse,
    settled,
    tail,
)
from umbel_batching.retention import Retention
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import NewJob, Settlement

if TYPE_CHECKING:
    from tests.properties.outbox import conftest as plain

LEASE_MS, FAR_MS, PATIENCE_MS, KEPT, SLACK_S = 3_600_000, 10**9, 2_000, 3, 100
HOSTS = {"a": "a.example", "b": "b.example:8443"}
KEEP = Retention(
    result_ttl_s=1_000, dead_ttl_s=50_000, callback_ttl_s=16_400, max_dead_callbacks=KEPT
)
CALLBACKS = {
    "a": encode_callback("https://a.example/x"),
    "m": encode_callback("https://a.example/m", shared=True),
    "b": encode_callback("https://b.example:8443/y"),
    "": b"",
}
SENDERS = ["sender-a", "sender-b"]
VERDICTS: list[Verdict] = ["delivered", "again", "dead"]
twice = st.booleans().map(lambda again: range(1 + again))
senders = st.sampled_from(SENDERS)
urls = st.lists(st.sampled_from([*"ammb", ""]), min_size=1, max_size=8)
places = st.sets(st.integers(0, 7))
verdicts = st.sampled_from(VERDICTS)
healths = st.sampled_from(["sick", "sick", "well", "there", "failing", "busy", "unknown"])


class OutboxMachine(RuleBasedStateMachine):
    """Does the same to the scripts and to the model."""

    def __init__(self, client: redis.Redis, namespace: str, model: plain.OutboxModel) -> None:
        super().__init__()
        self.client: Any = client
        self.namespace = namespace
        self.runner, self.calls = Runner(client), Calls(namespace, KEEP)
        self.outbox = OutboxCalls(namespace, KEEP, model.most)
        policy = BatchPolicy(max_batch_size=8, max_wait_ms=0, max_queue=1_000)
        self.lane = Lane(model="m", version=new_uid(), policy=policy)
        self.slot = self.lane.slot
        model.slot = self.slot
        model.marks["m"] = hashlib.sha1(CALLBACKS["m"]).hexdigest()[:16]
        self.keys, self.shared = lane_keys(namespace, self.slot), shared_keys(namespace)
        self.model = model
        self.seen: list[str] = []
        self.leased: list[Post] = []
        self.leases = 0

    def run(self, call: Call[Any]) -> Any:
        return self.runner.run(call)

    def now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000 + int(micros) // 1_000

    def lately(self) -> int:
        """A time that has passed; what is due since long ago is not held up by its receiver."""
        return self.now_ms() - 1_000

    def ask(self, command: str, names: Collection[str], *rest: Any) -> list[Any]:
        """The replies to one command for each of ``names``, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.execute_command(command, name, *rest)
        return pipe.execute() if names else []

    def scores(self, key: str) -> dict[str, int]:
        found = self.client.zrange(key, 0, -1, withscores=True)
        return {member.decode(): int(score) for member, score in found}

    @staticmethod
    def url_of(queue: str) -> str:
        return "m" if "#" in queue else queue[0]

    def queues(self) -> dict[str, dict[str, int]]:
        """The outbox as it stands in Redis, by URL; an empty queue does not exist."""
        found = {}
        for key in self.client.scan_iter(match=f"{self.shared.outbox}*", count=1_000):
            found[self.url_of(key.decode().removeprefix(self.shared.outbox))] = key.decode()
        return {url: self.scores(key) for url, key in found.items()}

    def one_of(self, data: st.DataObject, uids: Collection[str]) -> str:
        """One of ``uids``; by age, as the ids themselves differ from run to run."""
        return data.draw(st.sampled_from([uid for uid in self.seen if uid in uids]))

    # Jobs come and end.

    @rule(urls=urls, again=twice)
    def submit(self, urls: list[str], again: range) -> None:
        rows = [(new_uid(), url) for url in urls]
        texts = [tail(NO_REPLY, b"", Priority.NORMAL, CALLBACKS[url]) + b"in" for url in urls]
        jobs = [NewJob(uid, text) for (uid, _), text in zip(rows, texts, strict=True)]
        for _ in again:
            self.run(self.calls.submit(self.lane, jobs))
        for uid, url in rows:
            self.model.submit(uid, url)
            self.seen.append(uid)

    @rule(urls=urls, failing=places, again=twice)
    def submit_and_run(self, urls: list[str], failing: set[int], again: range) -> None:
        self.submit(urls, again)
        self.run_a_batch(failing, cancelled=False, again=again)

    @rule(failing=places, cancelled=st.booleans(), again=twice)
    @precondition(lambda self: self.model.of(State.QUEUED))
    def run_a_batch(self, failing: set[int], cancelled: bool, again: range) -> None:
        claimed = self._claim()
        if cancelled:
            self.run(self.calls.cancel(self.slot, claimed.uids[0]))
            self.model.end(claimed.uids[0], State.CANCELLED)
        places = enumerate(claimed.uids)
        states = [State.FAILED if at in failing else State.SUCCEEDED for at, _ in places]
        pairs = zip(claimed.records, states, strict=True)
        records = [settled(raw, state, b"out") for raw, state in pairs]
        outcome = Settlement(claimed.uids, records, states.count(State.SUCCEEDED), {}, 1)
        for _ in again:
            assert self.run(self.calls.settle(self.slot, claimed.batch, outcome))
        for uid, state in zip(claimed.uids, states, strict=True):
            if self.model.jobs[uid].state is State.RUNNING:
                self.model.end(uid, state)

    def _claim(self) -> Any:
        call = self.calls.claim(
            self.slot, batch=new_uid(), token="t", worker="w", lease_ms=LEASE_MS
        )
        claimed = self.run(call)
        assert claimed.uids
        for uid in claimed.uids:
            assert self.model.jobs[uid].state is State.QUEUED
            self.model.jobs[uid].state = State.RUNNING
        return claimed

    @rule(again=twice)
    @precondition(lambda self: self.model.of(State.QUEUED))
    def workers_die(self, again: range) -> None:
        claimed = self._claim()
        self.client.zadd(self.keys.leases, {claimed.batch: 1})
        for _ in again:
            self.run(self.calls.reap(self.slot, limit=9, max_attempts=1))
        for uid in claimed.uids:
            self.model.end(uid, State.FAILED)

    @rule(data=st.data(), how=st.sampled_from([State.CANCELLED, State.EXPIRED]), again=twice)
    @precondition(lambda self: self.model.of(State.QUEUED))
    def end_it(self, data: st.DataObject, how: State, again: range) -> None:
        uid = self.one_of(data, self.model.of(State.QUEUED))
        if how is State.EXPIRED:
            self.client.setrange(self.keys.job + uid, _SPANS["deadline"][0], b"0" * 12 + b"1")
            self.client.zadd(self.keys.deadlines, {uid: 1})
            assert [self.run(self.calls.expire(self.slot, 9)) for _ in again] == [1, 0][
                : len(again)
            ]
        else:
            won = [self.run(self.calls.cancel(self.slot, uid))[0] for _ in again]
            assert won == [True, False][: len(again)]
        self.model.end(uid, how)

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: len(self.model.jobs) > 5)
    def forget(self, data: st.DataObject, again: range) -> None:
        uid = self.one_of(data, self.model.jobs)
        found = [self.run(self.calls.forget(self.slot, uid)) for _ in again]
        assert found == [self.model.jobs[uid].state, None][: len(again)]
        self.model.withdraw(self.model.jobs.pop(uid))

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: self.model.of(State.FAILED))
    def replay(self, data: st.DataObject, again: range) -> None:
        job = self.model.jobs[self.one_of(data, self.model.of(State.FAILED))]
        assert all(self.run(self.calls.replay(self.slot, job.uid)).done for _ in again)
        self.model.withdraw(job)
        job.state, job.replays = State.QUEUED, job.replays + 1

    # Senders.

    @rule(token=senders, posts=st.sampled_from([1, 3, 64]), lost=st.booleans())
    @precondition(lambda self: any(self.model.queues.values()))
    def lease(self, token: str, posts: int, lost: bool) -> None:
        """Where the reply is lost the call is sent again; what the first took is held by nobody."""
        self._make_receivers_due()
        self.leases += 1  # no two leases end in the same millisecond
        call = self.outbox.lease(
            token,
            lease_ms=LEASE_MS + self.leases,
            posts=posts,
            parcel=new_uid(),
            batch_size=self.model.parcel,
        )
        for _ in range(1 + lost):
            wanted = {url: self.model.posts(url) for url in "amb"}
            free = {which: self.model.free(which) for which in "ab"}
            # Put back while it was under way: it is sent again, in the same place.
            anew = sum(self.model.queues[url].get(name, False) for url, name in self.model.held)
            expected = [min(free["a"], wanted["a"] + wanted["m"]), min(free["b"], wanted["b"])]
            taken = self.run(call).posts
            for post in taken:
                self._take(post)
            if posts == 64:
                ours = sum(self.url_of(post.queue) != "b" for post in taken)
                found = [ours, len(taken) - ours]
                assert all(0 <= more <= anew for more in map(sub, found, expected))
            assert min(1, sum(expected)) <= len(taken) <= posts

    def _make_receivers_due(self) -> None:
        if known := self.scores(self.shared.receivers):
            self.client.zadd(self.shared.receivers, dict.fromkeys(known, 1))

    def _take(self, post: Post) -> None:
        url = self.url_of(post.queue)
        waiting = self.model.queues[url]
        if post.name in self.model.parcels or url != "m":
            assert waiting[post.name]
            whole = self.model.parcels.get(post.name) or (Entry.parse(post.name),)
            assert post.entries == whole
        else:
            assert 0 < len(post.entries) <= self.model.parcel
            assert all(waiting.pop(entry.text) for entry in post.entries)
            self.model.parcels[post.name] = post.entries
        waiting[post.name] = False
        self.model.held[url, post.name] = post.lease_ends
        self.leased.append(post)

    @rule(
        data=st.data(),
        verdict=verdicts,
        health=healths,
        again=twice,
    )
    @precondition(lambda self: self.leased)
    def report(self, data: st.DataObject, verdict: Verdict, health: Any, again: range) -> None:
        """By the one who holds the lease, or by one who held it long ago."""
        self._report(data.draw(st.sampled_from(self.leased[-12:])), verdict, health, again)

    @rule(
        token=senders,
        answers=st.lists(st.tuples(verdicts, healths, twice), min_size=1, max_size=9),
    )
    @precondition(lambda self: any(any(names.values()) for names in self.model.queues.values()))
    def deliver(self, token: str, answers: list[tuple[Verdict, Any, range]]) -> None:
        """All that a sender does in a turn; it is stopped before it has written of all POSTs."""
        before = len(self.leased)
        self.lease(token, 64, lost=False)
        for post, answer in zip(self.leased[before:], answers, strict=False):
            self._report(post, *answer)

    def _report(self, post: Post, verdict: Verdict, health: Any, again: range) -> None:
        if not self.model.current(post.entries):
            verdict, health = "gone", "unknown"
        told = Report(post, verdict, health, status=200, pause_ms=FAR_MS, alone_ms=FAR_MS)
        for _ in again:
            expected = self.model.report(self.url_of(post.queue), post, verdict, health)
            gave_way = self.run(self.outbox.report(told))
            assert (gave_way is not None) == expected
            self._loosen(gave_way or [])
        if self.model.receiver(self.url_of(post.queue)).open:  # until a step says otherwise
            about = self.shared.receiver + post.receiver
            self.client.hset(about, "open_until", self.now_ms() + FAR_MS)

    def _loosen(self, gave_way: list[Entry]) -> None:
        texts = {entry.text for entry in gave_way}
        assert texts <= self.model.undelivered
        assert len(texts) == max(0, len(self.model.undelivered) - KEPT)
        self.model.undelivered -= texts
        for _ in range(2):
            self.run(self.outbox.loosen(gave_way))
        for entry in gave_way:
            self.model.jobs[entry.uid].kept = False

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: self.seen)
    def redeliver(self, data: st.DataObject, again: range) -> None:
        over = [job.uid for job in self.model.jobs.values() if job.fares in ("d", "x")]
        uid = self.one_of(data, over or self.model.jobs or self.seen)
        for _ in again:
            assert self.run(self.outbox.redeliver(self.slot, uid)) == self.model.redeliver(uid)

    # What befalls them, and flushers.

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: self.model.held)
    def a_lease_runs_out(self, which: int) -> None:
        url, name = list(self.model.held)[which % len(self.model.held)]
        del self.model.held[url, name]
        queue = next(post.queue for post in self.leased[::-1] if post.name == name)
        self.client.zadd(self.shared.underway + queue.partition("#")[0], {name: 1}, xx=True)
        if name in self.model.queues[url]:
            self.client.zadd(self.shared.outbox + queue, {name: self.lately()})
            self.client.zadd(self.shared.receivers, {queue: 1})
            self.model.queues[url][name] = True
            self._flushers_look()

    @rule()
    @precondition(lambda self: any(not all(names.values()) for names in self.model.queues.values()))
    def time_passes(self) -> None:
        """Breakers may be tried again, and what was put off is due; leases go on."""
        for url, names in self.queues().items():
            late = [name for name in names if (url, name) not in self.model.held]
            queue = next(q for q in self.scores(self.shared.receivers) if self.url_of(q) == url)
            if late:
                self.client.zadd(self.shared.outbox + queue, dict.fromkeys(late, self.lately()))
                self.client.zadd(self.shared.receivers, {queue: 1})
                self.model.queues[url] |= dict.fromkeys(late, True)
        for which, host in HOSTS.items():
            if self.model.receivers[which].open:
                self.model.receivers[which].open = False
                self.client.hset(self.shared.receiver + host, "open_until", 1)
        self._flushers_look()

    def _flushers_look(self) -> None:
        """The time has come that they waited for, if they did."""
        self.client.zadd(self.shared.wake, {OUTBOX: 1}, xx=True)

    @rule(what=st.sampled_from(["rest", "die", "summon"]), there=st.integers(0, 2), again=twice)
    def senders_come_and_go(self, what: str, there: int, again: range) -> None:
        """One that dies: its time is over, and the flushers' has come, if they waited for it."""
        token, names = SENDERS[there % 2], SENDERS[:there]
        summon = self.outbox.summon(there=there, patience_ms=PATIENCE_MS, tokens=names)
        if what == "die":
            if self.client.zadd(self.shared.senders, {token: 1}, xx=True, ch=True):
                self._flushers_look()
            return
        call = self.outbox.rest(token) if what == "rest" else summon
        assert len({self.run(call) for _ in again}) == 1

    # What must hold at any time.

    @invariant()
    def every_queue_is_as_the_model_says(self) -> None:
        found, now = self.queues(), self.now_ms()
        expected = {url: names for url, names in self.model.queues.items() if names}
        due = {
            url: {name: score <= now for name, score in names.items()}
            for url, names in found.items()
        }
        assert due == expected
        receivers = self.scores(self.shared.receivers)
        listed = {self.url_of(queue) for queue in receivers}
        assert listed >= found.keys()
        parcels = {name for names in found.values() for name in names if name[0] == "="}
        assert parcels == self.model.parcels.keys()
        raws = self.ask("GET", [self.shared.parcel + name[1:] for name in parcels])
        for name, raw in zip(parcels, raws, strict=True):
            texts = tuple(entry.text for entry in self.model.parcels[name])
            assert tuple(raw.decode().split()) == texts
        count = self.client.scan_iter(match=f"{self.shared.parcel}*", count=1_000)
        assert len(list(count)) == len(parcels)

    @invariant()
    def every_callback_is_in_one_place(self) -> None:
        names = [name for names in self.queues().values() for name in names]
        packed = [e.text for whole in self.model.parcels.values() for e in whole]
        members = self.client.zrange(self.shared.undelivered, 0, -1)
        undelivered = {member.decode().partition(" ")[0] for member in members}
        assert undelivered == self.model.undelivered
        jobs = self.model.jobs.values()
        records = self.ask("GET", [self.keys.job + job.uid for job in jobs])
        deliveries = self.ask("GET", [self.keys.delivery + job.uid for job in jobs])
        ttls = self.ask("TTL", [self.keys.job + job.uid for job in jobs])
        for job, raw, delivery, ttl in zip(jobs, records, deliveries, ttls, strict=True):
            entry, record = self.model.entry(job), parse(raw)
            assert (record.state, record.replays) == (job.state, job.replays)
            assert bool(record.finished_ms) >= (job.state.terminal and bool(job.url))
            waits = names.count(entry) + packed.count(entry)
            over = delivery[:1].decode().replace("p", "") if delivery else ""
            assert waits + bool(over) == (job.state.terminal and bool(job.url))
            assert (over or "p" * waits) == job.fares
            assert (parse_delivery(delivery).attempts if delivery else 0) == job.attempts
            self._check_ttl(job, ttl)

    @staticmethod
    def _check_ttl(job: plain.CalledJob, ttl: int) -> None:
        whole = KEEP.dead_ttl_s if job.state is State.FAILED else KEEP.result_ttl_s
        if not job.state.terminal or job.fares == "p":
            assert ttl == -1
        elif job.fares == "x" and job.kept:
            assert KEEP.dead_ttl_s - SLACK_S < ttl <= KEEP.dead_ttl_s
        else:
            assert whole - SLACK_S < ttl <= whole

    @invariant()
    def every_lease_and_breaker_agrees(self) -> None:
        now, leases = self.now_ms(), dict[str, int]()
        for which, host in HOSTS.items():
            receiver = self.model.receivers[which]
            about = self.client.hgetall(self.shared.receiver + host)
            found = {name.decode(): int(value) for name, value in about.items()}
            assert found.get("failures", 0) == receiver.failures
            assert found.get("limit", 8) == receiver.limit
            assert (found.get("open_until", 0) > now) == receiver.open
            leases |= self.scores(self.shared.underway + host)
            owed = self.model.owed(which)
            size = sum(self.ask("STRLEN", [self.keys.job + uid for uid in owed]))
            told = self.client.hmget(self.shared.owing, host, f"{host} bytes")
            assert [int(each or 0) for each in told] == [len(owed), size]
        held = {name: int(ends) for (_, name), ends in self.model.held.items()}
        assert {name: ends for name, ends in leases.items() if ends > now} == held

    @invariant()
    def an_outbox_with_work_is_due(self) -> None:
        if not any(self.model.queues.values()):
            return
        now, receivers = self.now_ms(), self.scores(self.shared.receivers)
        live = [ends for ends in self.scores(self.shared.senders).values() if ends > now]
        look = self.client.zscore(self.shared.wake, OUTBOX)
        assert look is not None
        assert look <= max(min(receivers.values()), now + PATIENCE_MS, *live)

    def teardown(self) -> None:
        """Delivers all that waits: nothing may be left then that stays for ever."""
        for _ in range(60):
            while self.model.held:
                self.a_lease_runs_out(0)
            if not any(self.model.queues.values()):
                break
            self.time_passes()
            self.lease(SENDERS[0], 64, lost=False)
            for post in self.leased[-64:]:
                self.model.report(self.url_of(post.queue), post, "delivered", "well")
                self.run(self.outbox.report(Report(post, "delivered", "well")))
        assert self.queues() == {}
        for token in SENDERS:
            self.run(self.outbox.rest(token))
        self.time_passes()
        self._make_receivers_due()
        self.run(self.outbox.lease("t", lease_ms=1, posts=1, parcel="p", there_ms=0))
        self.run(self.outbox.summon(there=0, patience_ms=1, tokens=["t"]))
        keys = list(self.client.scan_iter(match=f"{self.namespace}:*", count=5_000))
        ttls = dict(zip(keys, self.ask("TTL", keys), strict=True))
        stay = {key.decode().removeprefix(f"{self.namespace}:") for key in keys if ttls[key] == -1}
        live = self.model.of(State.QUEUED)
        allowed = {self.keys.lane, self.keys.waiting, self.shared.lanes, self.shared.wake}
        allowed |= {self.keys.drains, self.shared.signal, self.shared.callbacks}
        allowed.add(f"{self.shared.busy}umbel")
        allowed |= {self.keys.job + uid for uid in live}
        assert {f"{self.namespace}:{key}" for key in stay} <= allowed
        assert self.client.zscore(self.shared.wake, OUTBOX) is None
        self.client.delete(*keys, "none")


def test_every_callback_has_its_place_in_any_order(
    store_redis: redis.Redis, namespace: str, make_outbox_model: type[plain.OutboxModel]
) -> None:
    numbers = itertools.count()  # what a failure leaves behind must not trouble the next one

    class Machine(OutboxMachine):
        def __init__(self) -> None:
            super().__init__(store_redis, f"{namespace}-{next(numbers)}", make_outbox_model())

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=55,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
