"""Retention: the settings as the scripts read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.calls import Calls
from umbel_batching.retention import Retention

if TYPE_CHECKING:
    from tests.conftest import MakeSettings

EACH = Retention(
    result_ttl_s=1,
    tombstone_ttl_s=2,
    dead_ttl_s=3,
    max_dead=4,
    max_dead_bytes=5,
    callback_ttl_s=6,
    max_dead_callbacks=7,
)
#: Seconds for the last attempt of a callback, and for a sender that was away when it was due.
MARGIN_S = 3600


def test_the_scripts_read_eight_numbers() -> None:
    assert EACH.text == f"1 2 3 4 5 {6 + MARGIN_S} 3 7"


def test_a_record_outlives_the_last_attempt_of_its_callback() -> None:
    assert EACH.pending_ttl_s == 6 + MARGIN_S


@pytest.mark.parametrize(
    ("dead_ttl_s", "max_dead", "failed_s"), [(700, 1, 700), (700, 0, 50), (20, 1, 50)]
)
def test_a_failed_job_stays_at_least_as_long_as_any_result(
    dead_ttl_s: int, max_dead: int, failed_s: int
) -> None:
    keep = Retention(result_ttl_s=50, dead_ttl_s=dead_ttl_s, max_dead=max_dead)
    assert keep.text.split()[2] == str(failed_s)


def test_it_is_made_of_the_settings(settings: MakeSettings) -> None:
    given = settings(
        result_ttl_s=11,
        tombstone_ttl_s=12,
        dead_ttl_s=13,
        max_dead=14,
        max_dead_bytes=15,
        callback_ttl_s=60,
        max_dead_callbacks=17,
    )
    assert Retention.of(given).text == f"11 12 13 14 15 {60 + MARGIN_S} 13 17"
    calls = Calls.of(given)
    assert (calls.namespace, calls.keep) == (given.namespace, Retention.of(given))


def test_calls_without_settings_keep_the_defaults(settings: MakeSettings) -> None:
    assert Calls("t").keep == Retention() == Retention.of(settings())


def test_undelivered_callbacks_stay_for_their_time_even_without_dead_letters() -> None:
    keep = Retention(result_ttl_s=50, dead_ttl_s=700, max_dead=0)
    assert keep.text.split()[2::4] == ["50", "700"]
