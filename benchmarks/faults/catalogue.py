"""All scenarios, in the order of the table, by the stage that they share."""

from __future__ import annotations

from faults import hints, poison, redis_faults, rolling, stages, workers
from faults.scenario import Family

FAMILIES = (
    Family("workers", stages.embedded(), workers.ON_THREADS),
    Family("pool", stages.embedded(pool="prefork"), (*workers.ON_PREFORK, *poison.ON_PREFORK)),
    Family("flusher", stages.embedded(), hints.ON_LONE_FLUSHER),
    Family("replies", stages.proxied, hints.ON_PROXY),
    Family("redis", stages.mortal, redis_faults.ON_MORTAL_REDIS),
    Family("poison", stages.embedded(), (*poison.ON_THREADS, *redis_faults.ON_FULL_MEMORY)),
    Family("versions", stages.embedded(), rolling.ON_THREADS),
)
