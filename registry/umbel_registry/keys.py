"""The registry's Redis keys.

Data dictionary; ``<ns>`` is the ``namespace`` setting. All of them are permanent: they hold what is
registered, and can be rebuilt from the artifact root.

=============================  ======  =====================================================
key                            type    content
=============================  ======  =====================================================
``<ns>:registry:models``       hash    model name → JSON summary of what was registered last
``<ns>:registry:model:<name>`` hash    version → manifest JSON
``<ns>:registry:revision``     string  counter, one up with every change; what caches watch
=============================  ======  =====================================================
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
