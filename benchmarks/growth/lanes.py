"""Lanes: the same jobs spread over ever more versions of one model, which share one artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from growth.bench import Bench, Pace
from growth.crew import Task
from growth.values import Curve, Dimension, Sample

LANES = (1, 10, 100, 1000)
#: So many jobs each lane has at least, and a batch at most: more lanes make no batch smaller.
EACH = 8
_SINGLES = 100


def measure(pace: Pace) -> Dimension:
    """Measures it.

    Args:
        pace: how much is measured.
    """
    counts = LANES[:-1] if pace.quick else LANES
    total = EACH * counts[-1]
    with Bench(pace) as bench:
        bench.start()
        bench.serve()
        task = bench.model("tiny", "tiny", max_batch_size=EACH, format="torchscript")
        copies(bench, "tiny", counts[-1])
        tasks = {count: replace(task, lanes=count) for count in counts}
        for count in reversed(counts):  # the first loads all versions
            bench.ask("bulk", tasks[count], EACH * count)

        def point(_: int, task: Task, __: int) -> Sample:
            return bench.sample_alone(task, total, _SINGLES)

        curve = Curve("tiny", bench.rounds(tasks, point, dict.fromkeys(tasks, total)))
        checked = bench.checked
    return Dimension(
        key="lanes",
        title="Lanes",
        x="lanes",
        how=f"One worker, batches of up to {EACH}, {total:,} jobs each time: at any number of "
        "lanes batches can be full. The lanes are versions of one model: one artifact, pushed "
        "once and registered under all of their numbers. Every version is loaded beforehand. The "
        "producer submits the jobs lane after lane, then collects all results.",
        latency="of one job at a time, each to the next lane, from submit to result",
        curves=[curve],
        checked=checked,
    )


def copies(bench: Bench, model: str, count: int) -> None:
    """Registers the one version of a model as versions 1 to ``count``.

    Args:
        bench: where.
        model: its name.
        count: how many versions there shall be.
    """
    first = bench.catalog.get(model)
    folder = Path(bench.folder / "models" / model)
    for number in range(2, count + 1):
        version = first.model_copy(update={"version": str(number)})
        bench.catalog.register(bench.store.put(folder, version))
