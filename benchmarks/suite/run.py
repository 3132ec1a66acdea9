"""One run: everything is started, measured in turn, and ended again."""

from __future__ import annotations

import time
from pathlib import Path

from rollout.company import Company, mean

from suite.deep import depth
from suite.field import PROBLEMS, Field
from suite.loads import open_loops
from suite.machine import hardware, versions
from suite.names import ASYNC, BULK, RAW, WAYS
from suite.pace import Pace
from suite.quiet import first_jobs, idle_cores
from suite.results import Results
from suite.rounds import Rounds, Say
from suite.sentences import choose
from suite.stack import Stack
from suite.truth import Truth


def run(folder: Path, pace: Pace, say: Say) -> tuple[Results, str]:
    """Measures everything.

    Args:
        folder: for data and logs.
        pace: how much.
        say: is told what goes on.

    Returns:
        What was measured, and what was wrong with umbel itself; empty if nothing was.
    """
    results = Results(machine=hardware(), versions=versions(), rounds=pace.rounds)
    began = time.monotonic()
    with Company() as company:
        say("choosing sentences, exporting and pushing models, starting umbel")
        choose(folder / "sentences.json", pace.sentences)
        truth = Truth()
        try:
            with Stack(folder) as stack, Field(folder, stack, truth, say) as field:
                results.versions |= field.versions
                _alongside(Rounds(field, truth, pace, results, say), results, field)
                _alone(stack, field, pace, truth, results, say)
            say(f"filling a lane with {pace.deep:,} jobs")
            results.depth = depth(folder / "depth", pace)
        except PROBLEMS as error:
            return results, str(error)
        results.others_cores = mean(company.spans(), began, time.monotonic())
    return results, _of_umbel(results)


def _alongside(rounds: Rounds, results: Results, field: Field) -> None:
    """What is measured of several contestants in turn."""
    rounds.throughput()
    rounds.closed_loops()
    rounds.whole_models()
    results.missing = {each.name: each.problem for each in field.contestants if each.problem}


def _alone(
    stack: Stack, field: Field, pace: Pace, truth: Truth, results: Results, say: Say
) -> None:
    """What is measured of umbel alone, while all others are frozen."""
    capacity = results.rate(ASYNC, "tiny")
    if capacity:
        results.capacity = capacity.median
        open_loops(field.of(ASYNC), capacity.median, pace, truth, results, say)
    say(f"the first job on an idle lane, {pace.tries} times")
    results.first_job = first_jobs(field.of(BULK), pace, truth)
    say(f"the idle system, for {pace.idle_s:g} s")
    try:
        results.idle_cores, results.idle_s = idle_cores(stack.worker.pid, pace.idle_s), pace.idle_s
    except OSError:
        say("not measured: this system does not tell what a process uses")


def _of_umbel(results: Results) -> str:
    """What went wrong with umbel, or with the loop that it is held against."""
    found = {name: why for name, why in results.missing.items() if name in {RAW, *WAYS}}
    return "; ".join(f"{name}: {why}" for name, why in found.items())
