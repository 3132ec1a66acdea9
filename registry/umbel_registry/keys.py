"""The registry's Redis keys.

Data dictionary; ``<ns>`` is the ``namespace`` setting. What has no TTL is permanent and bounded by
the number of models and versions; all but trail and failures can be rebuilt from the artifact root.

=================================  ======  ==================================================  =====
key                                type    content                                             TTL
=================================  ======  ==================================================  =====
``<ns>:registry:models``           hash    model name → JSON summary of what was registered    none
                                           last
``<ns>:registry:model:<name>``     hash    version → manifest JSON                             none
``<ns>:registry:traffic:<name>``   hash    ``state``: routes, aliases and all that can move;   none
                                           ``number`` of changes, ``ids`` of the last ones
``<ns>:registry:audit:<name>``     list    JSON of the last 1000 changes, newest first         none
``<ns>:registry:failures:<name>``  hash    version → JSON of why it last did not load          none
``<ns>:registry:revision``         string  counter, one up with every change; what caches      none
                                           watch
``<ns>:registry:process:<name>``   string  JSON of what the process ``host:pid`` of a worker   10 s
                                           has loaded
``<ns>:registry:processes``        zset    those names → ms since 1970 at which they are stale 60 s
``<ns>:registry:loads:<host>``     hash    ``model@version host:pid ms`` of each load ahead of  1 d
                                           need that began, and of which no end was told
``<ns>:registry:figures:<name>…``  hash    with ``:<route number>:<version>`` behind it: what  30 d
                                           workers measured of a version, see ``figures.py``
=================================  ======  ==================================================  =====
"""

from __future__ import annotations


def models_key(namespace: str) -> str:
    """Hash of all models.

    Args:
        namespace: the ``namespace`` setting.
    """
    return f"{namespace}:registry:models"


def model_key(namespace: str, name: str) -> str:
    """Hash of one model's versions.

    Args:
        namespace: the ``namespace`` setting.
        name: the model.
    """
    return f"{namespace}:registry:model:{name}"


def revision_key(namespace: str) -> str:
    """Counter that moves with every change.

    Args:
        namespace: the ``namespace`` setting.
    """
    return f"{namespace}:registry:revision"


def traffic_key(namespace: str, name: str) -> str:
    """Hash of all that can move about one model.

    Args:
        namespace: the ``namespace`` setting.
        name: the model.
    """
    return f"{namespace}:registry:traffic:{name}"


def audit_key(namespace: str, name: str) -> str:
    """List of the changes of one model.

    Args:
        namespace: the ``namespace`` setting.
        name: the model.
    """
    return f"{namespace}:registry:audit:{name}"


def failures_key(namespace: str, name: str) -> str:
    """Hash of the versions of one model that did not load.

    Args:
        namespace: the ``namespace`` setting.
        name: the model.
    """
    return f"{namespace}:registry:failures:{name}"


def process_key(namespace: str, process: str) -> str:
    """What one process of a worker has loaded.

    Args:
        namespace: the ``namespace`` setting.
        process: its name, ``host:pid``.
    """
    return f"{namespace}:registry:process:{process}"


def processes_key(namespace: str) -> str:
    """Sorted set of the processes that tell what they have loaded.

    Args:
        namespace: the ``namespace`` setting.
    """
    return f"{namespace}:registry:processes"


def loads_key(namespace: str, host: str) -> str:
    """Hash of the loads that processes of one host have begun.

    Args:
        namespace: the ``namespace`` setting.
        host: its name.
    """
    return f"{namespace}:registry:loads:{host}"


def figures_key(namespace: str, name: str, number: int, version: str) -> str:
    """Hash of what was measured of a version while one route was in force.

    Args:
        namespace: the ``namespace`` setting.
        name: the model.
        number: of the route.
        version: the version.
    """
    return f"{namespace}:registry:figures:{name}:{number}:{version}"
