"""Messages that push outcomes to clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_batching import replies
from umbel_batching.lanes import new_uid, slot_of
from umbel_batching.record import State
from umbel_batching.replies import Outcome

SLOT = slot_of("digits@1")
TERMINAL = [state for state in State if state.terminal]


@given(st.lists(st.tuples(st.sampled_from(TERMINAL), st.binary(max_size=40)), max_size=6))
def test_outcomes_come_back_in_order(rows: list[tuple[State, bytes]]) -> None:
    uids = [new_uid() for _ in rows]
    states, bodies = [state for state, _ in rows], [body for _, body in rows]
    outcomes, named = replies.read(replies.push(SLOT, uids, states, bodies))
    assert named == []
    assert outcomes == [
        (f"{SLOT}-{uid}", Outcome(state, body))
        for uid, (state, body) in zip(uids, rows, strict=True)
    ]


@pytest.mark.parametrize(("size", "named"), [(replies.MAX_PUSHED_BYTES // 2, False), (2**20, True)])
def test_large_outcomes_are_only_named(size: int, named: bool) -> None:
    uids = [new_uid(), new_uid()]
    message = replies.push(SLOT, uids, [State.SUCCEEDED] * 2, [b"x" * size] * 2)
    outcomes, ids = replies.read(message)
    assert (len(outcomes), len(ids)) == ((0, 2) if named else (2, 0))
    assert len(message) < 200 or not named
    assert [job_id for job_id, _ in outcomes] + ids == [f"{SLOT}-{uid}" for uid in uids]
