"""Callbacks that do not get on: odd settings, no sender, receivers that are behind or down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.flusher import sweep
from umbel_batching.keys import shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.outbox import OutboxCalls, Report, outbox_key
from umbel_batching.outbox_look import Outbox, Queue, look_at_outbox
from umbel_batching.receivers import ReceiverStatus
from umbel_batching.record import NO_REPLY, Priority, State, encode_callback, settled, tail
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import NewJob, Settlement
from umbel_callbacks.signing import new_secret
from umbel_cli.doctor import examine
from umbel_cli.doctor.callback_settings import judge_callback_settings
from umbel_cli.doctor.callbacks import judge_outbox
from umbel_cli.doctor.findings import Finding, Level
from umbel_config.settings import Settings, load_settings
from umbel_worker.app import make_app

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings

NOW = 1_700_000_000_000
ELSEWHERE, HERE = "another.example.com:7", f"{gethostname()}:7"
HOOKS = Queue("hooks.example.com", 3, NOW)
QUIET = Outbox(NOW, [], forgotten=False, senders=[], receivers=[], undelivered=0)
LANE = Lane(model="reader", version="1")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"callback_secrets": (new_secret(), f"*.example.com={new_secret()}")},
        {"callback_allow": ("hooks.internal", "10.0.0.0/8", "[fd00::1]:8080", "*.lan:80")},
        {"callback_allow": ("169.254.169.254:8080",)},
        {"callback_nameservers": ("10.0.0.53", "[::1]:5353")},
        {"callback_link": "https://app.example.com/results/{id}"},
        {"callback_timeout_s": 5, "callback_connect_timeout_s": 5, "callback_read_timeout_s": 5},
        {"callback_schedule_s": (1, 2, 3), "callback_ttl_s": 6},
        {"queues": ("umbel-callbacks",)},
        {"queues": ("a", "b")},
    ],
)
def test_settings_that_go_together_are_left_alone(given: dict[str, Any]) -> None:
    (found,) = judge_callback_settings(load_settings(**given))
    assert (found.check, found.level) == ("settings.callbacks", Level.OK)


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        (
            {"callback_secrets": (new_secret(), "whsec_geheim")},
            Level.PROBLEM,
            "Word 2 of callback_secrets is malformed",
        ),
        ({"callback_secrets": ("geheim",)}, Level.PROBLEM, "Word 1 of callback_secrets"),
        ({"callback_allow": ("10.0.0.1/8",)}, Level.PROBLEM, "the entry '10.0.0.1/8'"),
        ({"callback_ports": (0,)}, Level.PROBLEM, "callback_ports holds ports"),
        ({"callback_nameservers": ("dns.lan",)}, Level.PROBLEM, "has the entry 'dns.lan'"),
        ({"callback_link": "https://app.lan/"}, Level.PROBLEM, "callback_link is no"),
        ({"callback_allow": ("0.0.0.0/0",)}, Level.WARNING, "every address"),
        ({"callback_allow": ("a.lan", "::/0")}, Level.WARNING, "submits a job: ::/0"),
        ({"callback_allow": ("169.254.0.0/16",)}, Level.WARNING, "the metadata of clouds"),
        ({"callback_allow": ("128.0.0.0/1",)}, Level.WARNING, "the metadata of clouds"),
        ({"callback_allow": ("169.254.169.254",)}, Level.WARNING, "the metadata of clouds"),
        (
            {"callback_timeout_s": 9},
            Level.WARNING,
            "callback_timeout_s (9) is below callback_read_timeout_s (10)",
        ),
        (
            {"callback_connect_timeout_s": 16},
            Level.WARNING,
            "callback_timeout_s (15) is below callback_connect_timeout_s (16)",
        ),
        (
            {"callback_schedule_s": (1, 2, 3), "callback_ttl_s": 2},
            Level.WARNING,
            "callback_ttl_s (2) is below the sum of callback_schedule_s (6): the last 2 of 4",
        ),
        (
            {"queues": ("umbel", "umbel-callbacks")},
            Level.PROBLEM,
            "queues holds umbel-callbacks, the queue of callbacks, beside others",
        ),
        ({"queues": ("a", "b"), "callback_queue": "b"}, Level.PROBLEM, "queues holds b"),
    ],
)
def test_settings_that_do_not_are_told_once(
    given: dict[str, Any], level: Level, words: str
) -> None:
    (found,) = judge_callback_settings(load_settings(**given))
    assert (found.check, found.level) == ("settings.callbacks", level)
    assert words in found.summary
    assert "geheim" not in found.summary + found.advice


def test_all_that_is_amiss_with_settings_is_told() -> None:
    given = {"callback_allow": ("0.0.0.0/0", "::/0", "169.254.169.254/32", "no host")}
    found = judge_callback_settings(load_settings(**given, callback_timeout_s=1))
    assert [each.level for each in found] == [Level.PROBLEM, *[Level.WARNING] * 4]
    assert found[1].summary.endswith("0.0.0.0/0, ::/0")
    assert found[2].summary.endswith("169.254.169.254/32")


def outbox(**changes: Any) -> Outbox:
    names = Outbox.__dataclass_fields__
    return Outbox(**({name: getattr(QUIET, name) for name in names} | changes))


def judged(check: str, seen: Outbox, **given: Any) -> Finding:
    found = {each.check: each for each in judge_outbox(load_settings(**given), seen)}
    return found[f"callbacks.{check}"]


def status(receiver: str, **changes: Any) -> ReceiverStatus:
    counts = dict.fromkeys(("pending", "pending_bytes", "under_way", "failures"), 0)
    counts |= dict.fromkeys(("delivered", "again", "dead"), 0)
    known = {"next_at": None, "closed_until": None, "limit": None, **counts} | changes
    return ReceiverStatus(receiver=receiver, **known)


@pytest.mark.parametrize(
    "seen",
    [
        QUIET,
        outbox(senders=[HERE]),
        outbox(queues=[HOOKS], senders=[HERE], receivers=[status(HOOKS.receiver, delivered=9)]),
    ],
)
def test_a_quiet_outbox_is_well(seen: Outbox) -> None:
    found = list(judge_outbox(load_settings(), seen))
    assert {each.level for each in found} == {Level.OK}
    assert len({each.check for each in found}) == len(found) == 7


def test_a_secret_that_is_set_is_counted_and_not_shown() -> None:
    secrets = (new_secret(), new_secret())
    found = judged("secret", outbox(queues=[HOOKS]), callback_secrets=secrets)
    assert (found.level, found.summary) == (Level.OK, "2 secrets set")


@pytest.mark.parametrize(
    ("queues", "senders", "kept", "level", "words"),
    [
        ([], [], False, Level.OK, "Not set; umbel up makes one by itself"),
        ([], [HERE], False, Level.OK, "Not set; umbel up makes one by itself"),
        ([HOOKS], [HERE], False, Level.OK, "Not set; umbel up makes one by itself"),
        ([HOOKS], [], False, Level.WARNING, "Callbacks wait, and callback_secrets is not set"),
        ([HOOKS], [], True, Level.OK, "umbel up uses the one in"),
        ([], [HERE], True, Level.OK, "umbel up uses the one in"),
        ([], [ELSEWHERE], False, Level.WARNING, "run elsewhere (another.example.com)"),
        ([], [HERE, ELSEWHERE], True, Level.WARNING, "run elsewhere (another.example.com)"),
    ],
)
def test_without_a_secret(
    queues: list[Queue], senders: list[str], kept: bool, level: Level, words: str, tmp_path: Path
) -> None:
    if kept:
        (tmp_path / "callback-secret").write_text("geheim")
    found = judged("secret", outbox(queues=queues, senders=senders), state_dir=tmp_path)
    assert (found.level, words in found.summary) == (level, True)
    assert "geheim" not in found.summary


def test_callbacks_without_a_sender_are_named_with_their_queue() -> None:
    queues = [Queue("b.example.com", 1200, NOW), HOOKS]
    known = [status("b.example.com", pending=1234), status("quiet.example.com")]
    known += [status(HOOKS.receiver, pending=3)]
    seen = outbox(queues=queues, receivers=known)
    found = judged("senders", seen, callback_queue="posts")
    assert found.level is Level.PROBLEM
    assert "queue posts: b.example.com (1,234), hooks.example.com (3)" in found.summary
    assert "umbel sender" in found.advice
    assert judged("senders", outbox(queues=queues, senders=["a:1"])).summary == "1 sender alive"


def test_an_outbox_that_nobody_will_look_at_is_a_problem() -> None:
    found = judged("called", outbox(queues=[HOOKS], forgotten=True))
    assert (found.level, "umbel flusher" in found.advice) == (Level.PROBLEM, True)
    assert judged("called", outbox(queues=[HOOKS])).level is Level.OK


LATE = Queue("slow.example.com", 5, NOW - 95_000)


def test_callbacks_that_are_due_for_long_although_there_are_senders() -> None:
    other = Queue(LATE.receiver, 5, NOW - 61_000)
    found = judged("progress", outbox(queues=[LATE, other, HOOKS], senders=[HERE]))
    assert found.level is Level.WARNING
    assert found.summary.endswith(": slow.example.com (95 s)")


@pytest.mark.parametrize(
    ("due_ms", "senders", "receiver"),
    [
        (NOW - 60_000, [HERE], {}),
        (NOW + 9_000, [HERE], {}),
        (LATE.due_ms, [], {}),  # said by another check
        (LATE.due_ms, [HERE], {"closed_until": NOW + 1}),
        (LATE.due_ms, [HERE], {"failures": 5}),
    ],
)
def test_what_need_not_be_sent_yet_is_not_late(
    due_ms: int, senders: Sequence[str], receiver: dict[str, int]
) -> None:
    known = [status(LATE.receiver, **receiver)]
    seen = outbox(queues=[Queue(LATE.receiver, 5, due_ms)], senders=senders, receivers=known)
    assert judged("progress", seen).level is Level.OK


def test_receivers_that_fail_are_named_the_worst_first() -> None:
    known = [
        status("a.example.com", failures=1),
        status("b.example.com", again=7, dead=1),
        status("c.example.com", failures=6, closed_until=NOW + 60_000),
        status("d.example.com", closed_until=NOW + 60_000),  # it asked for a pause, and gets it
    ]
    found = judged("receivers", outbox(receivers=known))
    assert found.level is Level.WARNING
    assert ": c.example.com: closed until " in found.summary
    assert found.summary.endswith("(6 failures), a.example.com: 1 failure in a row")
    assert "umbel callbacks receivers" in found.advice
    well = judged("receivers", outbox(receivers=known[1::2]))
    assert (well.level, well.summary) == (Level.OK, "2 receivers known, and none fails")


def test_receivers_that_are_far_behind_are_a_warning() -> None:
    seen = outbox(receivers=[status("a", pending=81, pending_bytes=2048), status("b", pending=80)])
    found = judged("room", seen, max_callbacks=100, max_callback_bytes=2**20)
    assert found.level is Level.WARNING
    assert "refused: a (81 of 100, 2.0 KiB of 1.0 MiB)" in found.summary
    assert judged("room", seen, max_callbacks=102).level is Level.OK
    assert judged("room", seen, max_callback_bytes=2500).level is Level.WARNING


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (1500, ""),
        (1400, " of the 1,400 that max_dead_callbacks keeps; the oldest give way"),
    ],
)
def test_undelivered_callbacks_are_a_warning(most: int, more: str) -> None:
    found = judged("dead", outbox(undelivered=1200), max_dead_callbacks=most)
    assert (found.level, found.summary) == (Level.WARNING, f"1,200 undelivered callbacks{more}")
    assert "umbel callbacks list" in found.advice
    assert judged("dead", QUIET, max_dead_callbacks=0).level is Level.OK


End = Callable[..., None]


@pytest.fixture
def run_script(store_redis: redis.Redis) -> Callable[[Call[Any]], Any]:
    return Runner(store_redis).run


@pytest.fixture
def end(run_script: Any, namespace: str) -> End:
    """Ends jobs that ask for a callback."""

    def make(count: int, url: str, *, shared: bool = False) -> None:
        calls, head = Calls(namespace), encode_callback(url, shared=shared)
        body = tail(NO_REPLY, b"", Priority.NORMAL, head) + wire.encode(1)
        for _ in range(count):
            run_script(calls.submit(LANE, [NewJob(new_uid(), body)]))
            claimed = run_script(
                calls.claim(LANE.slot, batch=new_uid(), token="t", worker="h:1", lease_ms=60_000)
            )
            records = [settled(raw, State.SUCCEEDED, wire.encode(1)) for raw in claimed.records]
            outcome = Settlement(claimed.uids, records, 0, {}, 10)
            run_script(calls.settle(LANE.slot, claimed.batch, outcome))

    return make


@pytest.fixture
def lease(run_script: Any, namespace: str) -> Callable[[], Any]:
    """A sender takes what is due."""

    def make(token: str = "t") -> Any:
        call = OutboxCalls(namespace).lease(token, lease_ms=60_000, posts=9, parcel=new_uid())
        return run_script(call).posts

    return make


def levels(client: redis.Redis, settings: Settings) -> dict[str, Level]:
    found = judge_outbox(settings, look_at_outbox(client, settings))
    return {each.check.removeprefix("callbacks."): each.level for each in found}


def test_looking_at_an_empty_namespace(store_redis: redis.Redis, settings: MakeSettings) -> None:
    made = settings()
    seen = look_at_outbox(store_redis, made)
    assert seen == outbox(at_ms=seen.at_ms)
    assert list(store_redis.scan_iter(match=f"{made.namespace}*")) == []


def test_looking_at_what_waits(
    store_redis: redis.Redis, settings: MakeSettings, namespace: str, end: End, run_script: Any
) -> None:
    end(2, "https://hooks.example.com/a")
    end(3, "https://shared.example.com/b", shared=True)
    made = settings(max_callbacks=3)
    seen = look_at_outbox(store_redis, made)
    assert {(each.receiver, each.waiting) for each in seen.queues} == {
        ("hooks.example.com", 2),
        ("shared.example.com", 3),
    }
    assert all(seen.at_ms - 60_000 < each.due_ms <= seen.at_ms for each in seen.queues)
    found = levels(store_redis, made)
    assert (found["senders"], found["room"]) == (Level.PROBLEM, Level.WARNING)
    assert (found["secret"], found["called"]) == (Level.WARNING, Level.OK)
    run_script(Calls(namespace).announce(made.callback_queue, HERE, slots=1, stale_ms=60_000))
    assert look_at_outbox(store_redis, made).senders == [HERE]
    assert levels(store_redis, made)["senders"] is Level.OK


def test_looking_at_an_outbox_that_fell_off_the_list(
    store_redis: redis.Redis, settings: MakeSettings, namespace: str, end: End, run_script: Any
) -> None:
    end(1, "https://hooks.example.com/")
    wake, made = shared_keys(namespace).wake, settings()
    assert store_redis.zrem(wake, "outbox") == 1
    assert levels(store_redis, made)["called"] is Level.PROBLEM
    sweep(Runner(store_redis), Calls(namespace), now=False)
    assert levels(store_redis, made)["called"] is Level.OK


def test_a_sender_at_work_will_look_by_itself(
    store_redis: redis.Redis, settings: MakeSettings, namespace: str, end: End, lease: Any
) -> None:
    end(1, "https://hooks.example.com/")
    lease("token")
    keys, made = shared_keys(namespace), settings()
    store_redis.zrem(keys.wake, "outbox")
    assert levels(store_redis, made)["called"] is Level.OK
    store_redis.zadd(keys.senders, {"token": 1})
    assert levels(store_redis, made)["called"] is Level.PROBLEM


def test_looking_at_what_is_late(
    store_redis: redis.Redis,
    settings: MakeSettings,
    namespace: str,
    end: End,
    lease: Any,
    run_script: Any,
) -> None:
    made = settings()
    run_script(Calls(namespace).announce(made.callback_queue, HERE, slots=1, stale_ms=60_000))
    end(1, "https://hooks.example.com/")
    assert levels(store_redis, made)["progress"] is Level.OK
    key = outbox_key(namespace, "hooks.example.com")
    store_redis.zadd(key, dict.fromkeys(cast("list[bytes]", store_redis.zrange(key, 0, 0)), 1))
    assert levels(store_redis, made)["progress"] is Level.WARNING
    assert len(lease()) == 1
    assert levels(store_redis, made)["progress"] is Level.OK, "it is under way"


def test_looking_at_receivers_and_what_they_did_not_take(
    store_redis: redis.Redis, settings: MakeSettings, namespace: str, end: End, lease: Any
) -> None:
    end(2, "https://hooks.example.com/")
    first, second = lease()
    run, calls, made = Runner(store_redis).run, OutboxCalls(namespace), settings()
    run(calls.report(Report(first, "dead", status=410, health="unknown")))
    found = levels(store_redis, made)
    assert (found["dead"], found["receivers"]) == (Level.WARNING, Level.OK)
    run(calls.report(Report(second, "again", health="sick", pause_ms=60_000)))
    assert levels(store_redis, made)["receivers"] is Level.WARNING
    store_redis.zadd(shared_keys(namespace).undelivered, {f"{first.name} {first.queue}": 1})
    assert levels(store_redis, made)["dead"] is Level.OK, "it is kept no longer"


def test_the_doctor_tells_of_callbacks(
    run_here: Any, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "inspect", lambda _: {})
    end(1, "https://hooks.example.com/path?token=geheim")
    monkeypatch.setenv("UMBEL_CALLBACK_SECRETS", "whsec_geheim")
    answer = run_here("doctor")
    assert answer.code == 1
    assert "no sender serves queue umbel-callbacks: hooks.example.com (1)" in answer.out
    assert "Word 1 of callback_secrets is malformed" in answer.out
    assert "geheim" not in answer.out + answer.err
    lines = answer.out.splitlines()
    assert lines.index("Lanes") < lines.index("Callbacks") < lines.index("Models")


def test_a_sender_is_not_taken_for_a_worker(
    run_here: Any, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = settings(queues=("umbel-callbacks",))
    with make_app(made) as app:
        monkeypatch.setattr(examine, "inspect", lambda _: {"umbel-7@host": dict(app.conf)})
        findings = run_here("doctor", "--json").json["findings"]
    levels = {each["check"]: each["level"] for each in findings}
    assert (levels["workers.answer"], levels["workers.settings"]) == ("skipped", "ok")
