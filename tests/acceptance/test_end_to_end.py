"""Real worker processes under Celery: outputs are those of a local forward, whatever happens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
import torch

from umbel import Client, JobFailed
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import split_id
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import HEAD
from umbel_config.connect import connect
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, export_model, push

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, Worker

Start = Callable[..., "Worker"]


class TwoByTwo(torch.nn.Module):
    """Two inputs, two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.linear(left) + right
        return {"scores": scores, "best": scores.argmax(-1)}


class Tagger(torch.nn.Module):
    """One number per token, that depends on all real tokens of its text."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens) * mask.unsqueeze(-1)
        mean = hidden.sum(1, keepdim=True) / mask.sum(1).reshape(-1, 1, 1)
        tags: torch.Tensor = (hidden + mean).sum(-1)
        return tags


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.nn.Module]]:
    """The folders ``pair`` and ``tags``, and the modules they were made from."""
    torch.manual_seed(3)
    root = tmp_path_factory.mktemp("exported")
    pair, tags = TwoByTwo().eval(), Tagger().eval()
    policy = BatchPolicy(max_batch_size=16, max_wait_ms=5)
    example = {"left": torch.zeros(4), "right": torch.zeros(3)}
    export_model(pair, example, root / "pair", name="pair", batching=policy)
    export_model(
        tags,
        [1, 2, 3],
        root / "tags",
        name="tags",
        batching=policy,
        variable={"tokens": [0]},
        masks={"tokens": "mask"},
    )
    return root, {"pair": pair, "tags": tags}


@pytest.fixture
def site(settings: MakeSettings) -> Settings:
    return settings(allowed_modules=("umbel_test_handlers",))


def register_folder(site: Settings, folder: Path) -> None:
    with connect(site) as client:
        push(
            folder,
            catalog=Catalog(client, site.namespace),
            store=ArtifactStore(site.artifacts),
        )


def pairs(count: int) -> list[dict[str, Any]]:
    made = np.random.default_rng(5).standard_normal((count, 7)).astype(np.float32)
    return [{"left": row[:4].copy(), "right": row[4:].copy()} for row in made]


def test_models_of_all_kinds_give_what_a_local_forward_gives(
    site: Settings, exported: Any, register: Register, start_worker: Start
) -> None:
    """Two lanes of tensors, one of text, and inputs that fail alone, on one worker."""
    root, modules = exported
    register_folder(site, root / "pair")
    register_folder(site, root / "tags")
    register(site, "shout", "Shout", {"x": {"dtype": "string"}}, {"y": {"dtype": "string"}})
    register(site, max_batch_size=64, max_wait_ms=200)
    start_worker(site)
    rng = np.random.default_rng(7)
    texts = [rng.integers(0, 10, size=length) for length in rng.integers(1, 20, size=60)]
    unlucky = np.arange(256, dtype=np.float32).reshape(64, 4) + 100
    unlucky[37, 0] = 13
    with Client(settings=site) as client:
        both = client.submit_many("pair", pairs(60))
        tags = client.submit_many("tags", texts)
        loud = client.submit_many("shout", [f"straße {n}" for n in range(20)])
        mixed = client.submit_many("affine", unlucky)
        _check_pairs(modules["pair"], both)
        _check_tags(modules["tags"], tags, texts)
        assert [job.result(timeout=60) for job in loud] == [f"STRASSE {n}" for n in range(20)]
        with pytest.raises(JobFailed, match="unlucky input"):
            mixed[37].result(timeout=60)
        for place in set(range(64)) - {37}:
            np.testing.assert_array_equal(mixed[place].result(timeout=60), unlucky[place] * 2 + 1)
        assert mixed[0].info().batch_size == 64


def _check_pairs(module: torch.nn.Module, jobs: list[Any]) -> None:
    for job, sent in zip(jobs, pairs(len(jobs)), strict=True):
        got = job.result(timeout=60)
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(sent[name])[None] for name in ("left", "right")))
        np.testing.assert_allclose(
            got["scores"], expected["scores"][0].numpy(), rtol=1e-5, atol=1e-6
        )
        assert got["best"] == expected["best"][0]


def _check_tags(module: torch.nn.Module, jobs: list[Any], texts: list[Any]) -> None:
    for job, sent in zip(jobs, texts, strict=True):
        tokens = torch.from_numpy(sent)[None]
        with torch.inference_mode():
            expected = module(tokens, torch.ones_like(tokens, dtype=torch.bool))[0].numpy()
        np.testing.assert_allclose(job.result(timeout=60), expected, rtol=1e-5, atol=1e-5)


def test_damaged_record_and_changed_artifact_cost_their_own_jobs_only(
    site: Settings, exported: Any, register: Register, start_worker: Start, store_redis: redis.Redis
) -> None:
    root, modules = exported
    register_folder(site, root / "pair")
    register(site, max_batch_size=16, max_wait_ms=200)
    register_folder(site, root / "tags")
    (weights,) = (Path(site.artifacts) / "tags").rglob("*.pt2")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    rows = np.arange(64, dtype=np.float32).reshape(16, 4) + 100
    with Client(settings=site) as client:
        jobs = client.submit_many("affine", rows)
        slot, uid = split_id(jobs[5].id)
        key = lane_keys(site.namespace, slot).job + uid
        store_redis.setrange(key, HEAD, b"\xc1" * 8)
        start_worker(site)
        changed = client.submit("tags", [1, 2])
        both = client.submit_many("pair", pairs(8))
        with pytest.raises(JobFailed) as damaged:
            jobs[5].result(timeout=60)
        assert damaged.value.kind == "MalformedPayload"
        for place in set(range(16)) - {5}:
            np.testing.assert_array_equal(jobs[place].result(timeout=60), rows[place] * 2 + 1)
        with pytest.raises(JobFailed, match=r"\.pt2") as tampered:
            changed.result(timeout=60)
        assert tampered.value.kind == "ArtifactTampered"
        _check_pairs(modules["pair"], both)


def test_spawned_pool_computes_with_torch_and_ends_cleanly(
    settings: MakeSettings, exported: Any, start_worker: Start
) -> None:
    site = settings(pool="prefork", concurrency=2, drain_budget_ms=50)
    root, modules = exported
    register_folder(site, root / "pair")
    worker = start_worker(site)
    with Client(settings=site) as client:
        jobs = client.submit_many("pair", pairs(200))
        _check_pairs(modules["pair"], jobs)
        names = {job.info().worker for job in jobs}
    assert str(worker.pid) not in {str(name).rpartition(":")[2] for name in names}
    worker.close()
    assert "Traceback" not in worker.log.read_text()


def test_input_that_kills_its_worker_ends_alone(
    settings: MakeSettings, register: Register, start_worker: Start
) -> None:
    """A pool of processes loses one with each attempt; the neighbours all succeed."""
    site = settings(
        pool="prefork", allowed_modules=("umbel_test_handlers",), lease_ms=500, max_attempts=3
    )
    register(site, max_batch_size=8, max_wait_ms=50)
    start_worker(site)
    rows = np.arange(32, dtype=np.float32).reshape(8, 4) + 100
    deadly = copy.deepcopy(rows)
    deadly[3, 0] = 16
    with Client(settings=site) as client:
        jobs = client.submit_many("affine", deadly)
        with pytest.raises(JobFailed) as caught:
            jobs[3].result(timeout=60)
        assert caught.value.kind == "WorkerLost"
        for place in set(range(8)) - {3}:
            np.testing.assert_array_equal(jobs[place].result(timeout=60), rows[place] * 2 + 1)
        assert jobs[3].info().attempts == 3
