"""``umbel callbacks`` on a real Redis, with callbacks that no sender had to send."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest
import redis
import typer

from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.deliveries import Callback
from umbel_batching.keys import shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.outbox import OutboxCalls, Report
from umbel_batching.receivers import ReceiverStatus, Undelivered
from umbel_batching.record import NO_REPLY, Priority, State, encode_callback, settled, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob, Settlement
from umbel_callbacks.signing import new_secret
from umbel_cli.callbacks.moments import ahead, moment_ms
from umbel_cli.callbacks.tables import breaker_text

LANE = Lane(model="reader", version="1")
HOOK = "https://hooks.example.com/umbel?token=hunter2"
#: Ends so many jobs and returns their ids.
End = Callable[..., list[str]]


@pytest.fixture
def send(store_redis: redis.Redis, namespace: str) -> Callable[..., str]:
    """Submits one job and returns its id."""

    def make(url: str | None = HOOK, *, shared: bool = False) -> str:
        uid, callback = new_uid(), encode_callback(url, shared=shared) if url else b""
        head = tail(NO_REPLY, b"", Priority.NORMAL, callback)
        call = Calls(namespace).submit(LANE, [NewJob(uid, head + wire.encode(1))])
        assert Runner(store_redis).run(call).depth > 0
        return f"{LANE.slot}-{uid}"

    return make


@pytest.fixture
def end(send: Any, store_redis: redis.Redis, namespace: str) -> End:
    def make(count: int = 1, url: str | None = HOOK, *, shared: bool = False) -> list[str]:
        ids = [send(url, shared=shared) for _ in range(count)]
        calls, run = Calls(namespace), Runner(store_redis).run
        for _ in ids:
            call = calls.claim(
                LANE.slot, batch=new_uid(), token="drain", worker="host:12", lease_ms=60_000
            )
            claimed = run(call)
            records = [settled(raw, State.SUCCEEDED, wire.encode(1)) for raw in claimed.records]
            outcome = Settlement(claimed.uids, records, 0, {}, 10)
            run(calls.settle(LANE.slot, claimed.batch, outcome))
        return ids

    return make


@pytest.fixture
def post(store_redis: redis.Redis, namespace: str) -> Callable[..., int]:
    """Makes the POSTs that are due end in one way, and returns how many there were."""

    def make(verdict: Any, health: Any = "unknown", **more: Any) -> int:
        calls, run = OutboxCalls(namespace), Runner(store_redis).run
        posts = run(calls.lease("t", lease_ms=60_000, posts=99, parcel=new_uid()[:20])).posts
        for each in posts:
            assert run(calls.report(Report(each, verdict, health, **more))) is not None
        return len(posts)

    return make


@pytest.fixture
def kill(end: End, post: Any) -> End:
    """Ends jobs whose callbacks are then given up."""

    def make(count: int = 1, url: str = HOOK, **more: Any) -> list[str]:
        ids = end(count, url)
        given = {"status": 503, "took_ms": 1530, "note": "Service [Unavailable]"}
        assert post("dead", **given | more) == count
        return ids

    return make


def unknown(job_id: str) -> str:
    return job_id[:-1] + ("0" if job_id[-1] != "0" else "1")


def flat(text: str) -> str:
    """A sentence without the frame around it."""
    return " ".join(text.replace("│", " ").split())


def test_nothing_has_been_sent(run_here: Any) -> None:
    answer = run_here("callbacks", "list")
    assert (answer.code, answer.out) == (0, "No undelivered callbacks; none is pending.\n")
    assert "No receiver is known" in run_here("callbacks", "receivers").out
    assert "nothing to replay" in run_here("callbacks", "replay", "--all").out
    for words in (("list",), ("receivers",), ("replay", "--all")):
        assert run_here("callbacks", *words, "--json").json == []


def test_without_undelivered_ones_those_that_wait_are_counted(run_here: Any, end: End) -> None:
    end(2)
    end(1, "https://other.example.com/")
    assert run_here("callbacks", "list").out == "No undelivered callbacks; 3 are pending.\n"
    answer = run_here("callbacks", "list", "--host", "other.example.com", "--until", "1h")
    text = "No undelivered callbacks for other.example.com of that time; 1 is pending.\n"
    assert (answer.code, answer.out) == (0, text)


def test_list_is_newest_first_and_hides_the_url(
    run_here: Any, kill: End, store_redis: redis.Redis, wait_until: Any
) -> None:
    (old,) = kill(url="https://other.example.com:8443/")
    before = store_redis.time()
    wait_until(lambda: store_redis.time()[1] // 1000 != before[1] // 1000, "the next millisecond")
    (new,) = kill()
    answer = run_here("callbacks", "list")
    lines = answer.out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [
        [new, "hooks.example.com"],
        [old, "other.example.com:8443"],
    ]
    assert "503 Service [Unavaila" in lines[1]
    assert max(map(len, lines)) <= 120
    found = run_here("callbacks", "list", "--json")
    assert "hunter2" not in answer.out + found.out
    assert set(found.json[0]) == {*Undelivered.__struct_fields__, "last_status"} - {"url"}
    assert [(each["id"], each["last_status"]) for each in found.json] == [(new, 503), (old, 503)]
    assert found.json[0]["log"][0]["note"] == "Service [Unavailable]"


def test_list_is_bounded_by_host_time_and_number(run_here: Any, kill: End) -> None:
    (other,) = kill(url="https://other.example.com:8443/")
    kill(2)
    for words, count in (
        ((), 3),
        (("--limit", "2"), 2),
        (("--host", "hooks.example.com"), 2),
        (("--host", "Other.Example.com"), 1),
        (("--host", "other.example.com:8443"), 1),
        (("--since", "1h"), 3),
        (("--until", "1h"), 0),
        (("--since", "2020-01-01", "--until", "2020-01-02T00:00Z"), 0),
        (("--since", "2020-01-01", "--host", "hooks.example.com", "--limit", "1"), 1),
    ):
        found = run_here("callbacks", "list", *words, "--json").json
        assert len(found) == count, words
    (only,) = run_here("callbacks", "list", "--host", "other.example.com", "--json").json
    assert only["id"] == other


@pytest.mark.parametrize("name", ["list", "replay"])
def test_a_receiver_that_is_not_there_is_said(run_here: Any, kill: End, name: str) -> None:
    answer = run_here("callbacks", name, "--host", "hooks.example.org")
    assert "There is none yet." in answer.err
    kill()
    answer = run_here("callbacks", name, "--host", "hooks.example.org")
    assert (answer.code, answer.out) == (1, "")
    assert "No receiver is named 'hooks.example.org'" in answer.err
    assert "There are: hooks.example.com." in answer.err


@pytest.mark.parametrize("text", ["yesterday", "5", "-5m", "15 m", "2h30m", "2026-13-01", "", "²s"])
def test_what_is_no_time_is_a_usage_error(run_here: Any, text: str) -> None:
    answer = run_here("callbacks", "list", f"--since={text}")
    assert (answer.code, answer.out) == (2, "")
    assert "is no time: give an age such as 90s, 15m, 2h or 7d" in flat(answer.err)


def test_a_time_that_ends_before_it_begins_is_a_usage_error(run_here: Any) -> None:
    answer = run_here("callbacks", "replay", "--since", "1h", "--until", "2h")
    assert answer.code == 2
    assert "--since is later than --until" in flat(answer.err)


def test_ages_and_times() -> None:
    for text, seconds in (("90s", 90), ("1.5m", 90), ("2h", 7200), ("7d", 604_800), ("0s", 0)):
        assert abs(moment_ms(text) - (time.time() - seconds) * 1000) < 60_000
    assert moment_ms("2026-03-01T12:00Z") == 1_772_366_400_000
    assert moment_ms("2026-03-01T12:00+02:00") == 1_772_366_400_000 - 7_200_000
    local = datetime(2026, 3, 1, 12).timestamp() * 1000  # noqa: DTZ001  (local is meant)
    assert moment_ms("2026-03-01 12:00") == local
    with pytest.raises(typer.BadParameter):
        moment_ms("0001-01-01T00:00+14:00Z")


@pytest.mark.parametrize(
    ("distance", "text"), [(1, "(in 1 s)"), (59_001, "(in 1 min)"), (7_200_000, "(in 2 h)")]
)
def test_times_to_come(distance: int, text: str) -> None:
    assert ahead(1_700_000_000_000 + distance, 1_700_000_000_000).endswith(text)
    assert ahead(1_700_000_000_000 - distance, 1_700_000_000_000) == "now"


def test_receivers_tell_how_they_fare(
    run_here: Any, end: End, kill: End, post: Any, store_redis: redis.Redis, namespace: str
) -> None:
    kill(1)
    end(5, "https://down.example.com/")
    assert post("again", "sick", note="not reached in time", pause_ms=7_200_000) == 5
    # The first pause of a breaker may be over on a slow machine before the command has looked.
    about = shared_keys(namespace).receiver + "down.example.com"
    assert store_redis.hset(about, "open_until", int(time.time() * 1000) + 3_600_000) == 0
    answer = run_here("callbacks", "receivers")
    assert answer.code == 0
    _, down, hooks = answer.out.splitlines()
    assert down.split()[:7] == ["down.example.com", "5", "0", "0", "5", "0", "1"]
    assert "closed until " in down
    assert "(5 failures)" in down
    assert "(in 1 h)" in down or "(in 2 h)" in down
    assert hooks.split() == ["hooks.example.com", *"00001-", "well", "-"]
    told = run_here("callbacks", "receivers", "--json").json
    assert list(told[0]) == list(ReceiverStatus.__struct_fields__)
    assert [(each["receiver"], each["dead"]) for each in told] == [
        ("down.example.com", 0),
        ("hooks.example.com", 1),
    ]


def test_what_is_under_way_is_not_due(
    run_here: Any, end: End, store_redis: redis.Redis, namespace: str
) -> None:
    end()
    assert run_here("callbacks", "receivers").out.splitlines()[1].split()[-1] == "now"
    lease = OutboxCalls(namespace).lease("t", lease_ms=60_000, posts=9, parcel="p")
    assert len(Runner(store_redis).run(lease).posts) == 1
    line = run_here("callbacks", "receivers").out.splitlines()[1]
    assert (line.split()[1:3], line.split()[-1]) == (["1", "1"], "-")


def test_receivers_are_never_cut(run_here: Any, end: End) -> None:
    name = ".".join(["a" * 60] * 4)
    end(1, f"https://{name}/")
    assert name in run_here("callbacks", "receivers").out


@pytest.mark.parametrize(
    ("closed", "failures", "text"),
    [
        (None, 0, "well"),
        (None, 1, "1 failure in a row"),
        (None, 7, "one POST at a time, on trial (7 failures)"),
        (1, 0, "asked for a pause until "),
        (1, 5, "closed until "),
    ],
)
def test_breakers_in_words(closed: int | None, failures: int, text: str) -> None:
    counts = dict.fromkeys(("pending", "pending_bytes", "under_way"), 0)
    counts |= dict.fromkeys(("delivered", "again", "dead"), 0)
    status = ReceiverStatus(
        receiver="x", next_at=None, closed_until=closed, failures=failures, limit=None, **counts
    )
    assert breaker_text(status, 0).plain.startswith(text)


def test_show_has_the_url_and_every_attempt(run_here: Any, end: End, post: Any) -> None:
    (job_id,) = end()
    post("again", status=500, took_ms=12, note="Internal [Error]")
    answer = run_here("callbacks", "show", job_id)
    assert answer.code == 0
    for text in (HOOK, f"webhook-id    {job_id}", "pending", "500 Internal [Error]", "12 ms"):
        assert text in answer.out
    assert "umbel callbacks receivers" in answer.out
    post("delivered", "well", status=200, took_ms=3)
    answer = run_here("callbacks", "show", job_id)
    assert "next attempt" not in answer.out
    assert f"umbel callbacks replay {job_id}" in answer.out
    told = run_here("callbacks", "show", job_id, "--json").json
    own = ["id", "job_state", "webhook_id", "shared"]
    assert list(told) == [*own, *Callback.__struct_fields__]
    assert (told["url"], told["state"], told["attempts"]) == (HOOK, "delivered", 2)
    assert [each["status"] for each in told["log"]] == [500, 200]
    assert (told["last_status"], told["shared"]) == (200, False)


def test_show_of_a_job_that_goes_on_and_of_one_that_shares(
    run_here: Any, send: Any, end: End
) -> None:
    answer = run_here("callbacks", "show", send())
    assert "waiting for the end of the job" in answer.out
    assert "at  " not in answer.out
    (job_id,) = end(1, shared=True)
    assert "that of the POST it shares" in run_here("callbacks", "show", job_id).out
    told = run_here("callbacks", "show", job_id, "--json").json
    assert (told["webhook_id"], told["shared"]) == (None, True)


def test_show_of_what_has_no_callback(run_here: Any, end: End) -> None:
    (job_id,) = end(1, None)
    answer = run_here("callbacks", "show", job_id)
    assert (answer.code, answer.out) == (1, "")
    assert f"Job {job_id} has no callback: it was submitted without" in answer.err
    assert "is known, or what was kept" in run_here("callbacks", "show", unknown(job_id)).err
    assert "is no job id" in run_here("callbacks", "show", "nonsense").err


def test_replay_by_id_tells_of_each(
    run_here: Any, kill: End, end: End, send: Any, post: Any
) -> None:
    (dead,) = kill()
    (good,) = end()
    post("delivered", "well", status=200)
    (plain,), (late,), live = end(1, None), end(), send()
    answer = run_here("callbacks", "replay", dead, good, late, dead)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"replayed {dead}\nreplayed {good}\nwaits already {late}\n"
    told = run_here("callbacks", "show", good, "--json").json
    assert (told["state"], told["webhook_id"], told["attempts"]) == ("pending", good, 0)
    assert [each["note"] for each in told["log"]] == ["", "replayed"]
    assert run_here("callbacks", "list", "--json").json == []
    answer = run_here("callbacks", "replay", dead, plain, live, unknown(dead))
    assert answer.code == 1
    assert f"waits already {dead}\nnot replayed {plain}: its job has no callback\n" in answer.out
    assert f"{live}: its job has not ended" in answer.out
    assert f"{unknown(dead)}: no job of that id is known" in answer.out
    assert post("delivered", "well", status=200) == 3


def test_json_of_a_replay(run_here: Any, kill: End, end: End) -> None:
    (dead,) = kill()
    (plain,) = end(1, None)
    answer = run_here("callbacks", "replay", dead, plain, "--json")
    assert answer.code == 1
    assert answer.json == [
        {"id": dead, "waits": True, "was": "dead", "why": None},
        {"id": plain, "waits": False, "was": None, "why": "its job has no callback"},
    ]
    (again,) = run_here("callbacks", "replay", dead, "--json").json
    assert (again["waits"], again["was"]) == (True, "pending")


def test_replay_of_a_part_takes_undelivered_ones_alone(
    run_here: Any, kill: End, end: End, post: Any
) -> None:
    (other,) = kill(url="https://other.example.com/")
    ids = kill(2)
    end()
    post("delivered", "well", status=200)
    host = ("--host", "hooks.example.com")
    answer = run_here("callbacks", "replay", *host, "--until", "1h")
    assert (answer.code, answer.err) == (0, "")
    assert "for hooks.example.com of that time: nothing to replay" in answer.out
    answer = run_here("callbacks", "replay", *host, "--since", "1h", stdin="y\n")
    assert answer.code == 0
    assert "2 undelivered callbacks for hooks.example.com of that time again?" in answer.err
    assert all(f"replayed {job_id}" in answer.out for job_id in ids)
    assert answer.out.count("replayed") == 2
    (left,) = run_here("callbacks", "list", "--json").json
    assert left["id"] == other


def test_many_are_asked_about_unless_the_answer_is_given(run_here: Any, kill: End) -> None:
    ids = kill(3)
    answer = run_here("callbacks", "replay", "--all", stdin="n\n")
    assert answer.code == 1
    assert "Send 3 undelivered callbacks again?" in answer.err
    assert len(run_here("callbacks", "list", "--json").json) == 3
    answer = run_here("callbacks", "replay", "--all", "--yes", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert {each["id"] for each in answer.json} == set(ids)


@pytest.mark.parametrize(
    "words", [(), ("--all", "--host", "x"), ("--all", "id"), ("id", "--since=1h")]
)
def test_callbacks_are_named_in_one_way(run_here: Any, words: tuple[str, ...]) -> None:
    answer = run_here("callbacks", "replay", *words)
    assert answer.code == 2
    assert "Give the IDs of jobs, or --host" in flat(answer.err)


def test_a_bad_id_stops_a_replay_before_it_begins(run_here: Any, kill: End) -> None:
    (job_id,) = kill()
    answer = run_here("callbacks", "replay", job_id, "nonsense", "--json")
    assert (answer.code, answer.out) == (1, "")
    assert msgspec.json.decode(answer.err)["error"] == "JobNotFound"
    assert len(run_here("callbacks", "list", "--json").json) == 1


def test_a_job_tells_of_its_callback(run_here: Any, kill: End) -> None:
    (job_id,) = kill()
    answer = run_here("job", job_id)
    assert "dead · hooks.example.com · 1 attempt · last: 503 Service [Unavailable]" in answer.out
    assert "hunter2" not in answer.out
    told = run_here("job", job_id, "--json").json["callback"]
    assert (told["url"], told["state"], told["last_status"]) == (HOOK, "dead", 503)


def test_submit_takes_a_callback(run_here: Any, register: Any) -> None:
    register("reader")
    words = ("submit", "reader", "--example", "--no-wait")
    job_id = run_here(*words, "--callback-url", HOOK, "--callback-batch").out.strip()
    told = run_here("callbacks", "show", job_id, "--json").json
    assert (told["url"], told["state"], told["shared"]) == (HOOK, "waiting", True)
    private = (*words, "--callback-url", "http://10.0.0.1:9000/")
    refused = run_here(*private)
    assert (refused.code, refused.out) == (1, "")
    assert len(refused.err.splitlines()) == 1
    assert run_here(*private, "--callback-allow", "10.0.0.0/8").code == 0
    odd = (*words, "--callback-url", "https://hooks.example.com:9443/")
    assert run_here(*odd).code == 1
    assert run_here(*odd, "--callback-ports", "443,9443").code == 0
    refused = run_here(*words, "--callback-batch")
    assert (refused.code, "needs a callback_url" in refused.err) == (1, True)


def test_a_secret_is_alone_on_standard_output(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_REDIS_URL", "redis://127.0.0.1:1")
    first, second = run("callbacks", "secret"), run("callbacks", "secret")
    assert (first.code, first.err) == (0, "")
    assert first.out.endswith("\n")
    assert len(first.out.strip()) == len(new_secret())
    assert first.out.startswith("whsec_")
    assert first.out != second.out
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run("callbacks", "secret")
    assert "UMBEL_CALLBACK_SECRETS" in shown.err
    assert len(shown.out.split()) == 1


@pytest.mark.parametrize("name", ["list", "receivers", "show", "replay", "verify", "secret"])
def test_help_ends_with_examples(run: Any, name: str) -> None:
    answer = run("callbacks", name, "--help")
    assert answer.code == 0
    assert f"$ umbel callbacks {name}" in answer.out.partition("Examples")[2]
