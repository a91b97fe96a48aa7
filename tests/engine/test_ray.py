"""The Ray engine on a local cluster: results as on one machine, and nothing is lost with a worker or a node."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray_workers import Broken, Squarer
from small_stores import contents
from videos import make_video

from deltactl.configs.engine import EngineConfig
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.engine import run_tasks
from deltactl.engine.ray import cores_per_gpu, worker_count
from deltactl.errors import ConfigError, MissingExtraError, SourceError, WorkerError
from deltactl.featurize.run import find_workers
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.run import run as run_ingest
from deltactl.tokenization.run import run as tokenize

pytestmark = pytest.mark.slow

ENGINE = EngineConfig(engine="ray")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes, one of two cores and a GPU, one of one core; this process is connected, with a home of its own."""
    import ray

    # Not below pytest's folders: the names of Ray's sockets must be short.
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", home)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", home)
        patch.setenv("CUDA_VISIBLE_DEVICES", "99")  # Ray counts the names, and no process finds a GPU behind this one
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "helpers"))
        cluster = start_cluster()
        yield cluster
        ray.shutdown()
        cluster.shutdown()
    shutil.rmtree(home, ignore_errors=True)


def start_cluster() -> Any:
    """Start the nodes, again where that fails: Ray gives each of them 30 s, which a busy machine may exceed."""
    import ray
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 * 2**20}
    for attempt in range(3):
        cluster = Cluster()
        try:
            # Ray takes our word for the GPU.
            cluster.add_node(num_cpus=2, num_gpus=1, include_dashboard=False, **memory)
            cluster.small = cluster.add_node(num_cpus=1, **memory)
            ray.init(address=cluster.address, log_to_driver=False)
        except Exception:
            ray.shutdown()
            cluster.shutdown()
            if attempt == 2:
                raise
        else:
            break
    return cluster


def test_every_task_has_its_result_and_models_load_once(nodes: Any, tmp_path: Path) -> None:
    assert (worker_count(ENGINE), cores_per_gpu(None)) == (3, 2.0)
    results = dict(run_tasks(Squarer(tmp_path), range(100, 112), engine=ENGINE))
    assert {task: result[0] for task, result in results.items()} == {task: task**2 for task in range(100, 112)}
    assert {result[1] for result in results.values()} == {1}
    processes = {result[2] for result in results.values()}
    assert len(processes) == 3
    assert os.getpid() not in processes
    assert len({result[3] for result in results.values()}) == 2, "both nodes worked"


def test_two_workers_can_share_a_gpu(nodes: Any, tmp_path: Path) -> None:
    engine = ENGINE.model_copy(update={"worker_gpus": 0.5})
    results = dict(run_tasks(Squarer(tmp_path), range(100, 106), engine=engine))
    assert (worker_count(engine), len({result[2] for result in results.values()})) == (2, 2)
    assert len({result[3] for result in results.values()}) == 1, "only one node has a GPU"


def test_networks_take_a_gpu_and_the_cores_that_go_with_it(nodes: Any) -> None:
    config, devices, workers = find_workers(FeaturizeConfig(engine="ray"))
    assert (devices, workers) == (["cuda:0"], 1)
    assert (config.worker_gpus, config.worker_cpus, config.decode_threads) == (1.0, 2.0, 2)
    config, devices, workers = find_workers(FeaturizeConfig(engine="ray", device="cpu"))
    assert (devices, workers, config.worker_gpus, config.worker_cpus) == (["cpu"], 3, 0.0, 1.0)


def test_tasks_are_drawn_as_they_are_needed(nodes: Any, tmp_path: Path) -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(100):
            drawn.append(task)
            yield task

    results = run_tasks(Squarer(tmp_path), tasks(), engine=ENGINE.model_copy(update={"workers": 2}))
    next(results)
    results.close()
    assert len(drawn) <= 4


def test_a_worker_that_is_killed_or_hangs_is_replaced_and_its_task_done_again(nodes: Any, tmp_path: Path) -> None:
    results = dict(run_tasks(Squarer(tmp_path), [1, 7, 8, 2], engine=ENGINE, time_limit_seconds=3.0))
    assert sorted(result[0] for result in results.values()) == [1, 4, 49, 64]
    assert {path.name for path in tmp_path.iterdir()} == {"1-0", "7-0", "7-1", "8-0", "8-1", "2-0"}


def test_a_task_that_always_kills_its_worker_is_an_error_that_names_it(nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"a worker on Ray failed .* 2 times; the task was -1"):
        list(run_tasks(Squarer(tmp_path), [-1], engine=ENGINE, retries=1))


def test_an_exception_of_a_task_ends_the_run_and_is_not_tried_again(nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="task -2") as caught:
        list(run_tasks(Squarer(tmp_path), [1, -2], engine=ENGINE))
    assert any("in run" in note for note in caught.value.__notes__)
    assert not (tmp_path / "-2-1").exists()
    with pytest.raises(SourceError, match="no model here"):
        list(run_tasks(Broken(), [1], engine=ENGINE))


def test_what_no_node_can_hold_is_an_error(nodes: Any, tmp_path: Path) -> None:
    for changes in ({"worker_cpus": 64.0}, {"worker_gpus": 2.0}):
        with pytest.raises(ConfigError, match=r"no node of the Ray cluster has .* \(the largest has 2 CPUs\)"):
            list(run_tasks(Squarer(tmp_path), [1], engine=ENGINE.model_copy(update=changes)))


def test_artifacts_are_those_of_one_machine_whatever_is_killed(nodes: Any, tmp_path: Path, golden: Path) -> None:
    for number in range(4):
        make_video(tmp_path / "in" / f"{number}.mp4", frames=20)
    ingest = {"source": str(tmp_path / "in"), "dataset": "folder", "shard_clips": 1, "size": 64}
    network = {"backbone": str(golden / "backbone"), "size": 64, "device": "cpu"}
    shards, features, tokens = (tmp_path / name for name in ("shards", "features", "tokens"))
    for name, engine in (("one", {"workers": 0}), ("ray", {"engine": "ray", "workers": 2})):
        with Killer() if name == "ray" else contextlib.nullcontext():
            run_ingest(IngestConfig(**ingest, **engine, out=str(shards / name)))
        featurize(FeaturizeConfig(**network, **engine, shards=str(shards / name), out=str(features / name)))
        settings = {**network, "tokenizer": str(golden / "deltatok.bin"), "data": str(features / name), **engine}
        tokenize(TokenizeConfig(**settings, out=str(tokens / name)))
    assert contents(shards / "one") == contents(shards / "ray")
    for kind, folder in ((FeatureStore, features), (TokenStore, tokens)):
        with kind.open(str(folder / "one")) as one, kind.open(str(folder / "ray")) as ray:
            assert one.keys == ray.keys
            assert set(ray.units) == set(one.units)
            samples = list(range(len(one)))
            # On another number of threads the last digits may differ.
            similar = torch.cosine_similarity(one.read_clips(samples).float(), ray.read_clips(samples).float(), dim=-1)
            assert similar.min() > 0.9999


def test_straight_from_videos_it_is_the_store_of_one_machine_whatever_is_killed(
    nodes: Any, tmp_path: Path, golden: Path
) -> None:
    for number in range(4):
        make_video(tmp_path / "in" / f"{number}.mp4", frames=20)
    network = {"backbone": str(golden / "backbone"), "size": 64, "device": "cpu", "views": "2"}
    cut = {"dataset": "folder", "shard_clips": 1}
    settings = {**network, "tokenizer": str(golden / "deltatok.bin"), "data": str(tmp_path / "in"), "videos": cut}
    tokenize(TokenizeConfig(**settings, workers=0, out=str(tmp_path / "one")))
    with Killer():
        tokenize(TokenizeConfig(**settings, engine="ray", workers=2, out=str(tmp_path / "ray")))
    with TokenStore.open(str(tmp_path / "one")) as one, TokenStore.open(str(tmp_path / "ray")) as ray:
        assert (one.keys, one.identity) == (ray.keys, ray.identity)
        samples = range(len(one))
        assert torch.equal(one.crops(samples), ray.crops(samples))
        similar = torch.cosine_similarity(one.read_clips(samples).float(), ray.read_clips(samples).float(), dim=-1)
        assert similar.min() > 0.9999


def test_tasks_of_a_node_that_is_removed_are_done_elsewhere(
    nodes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = run_tasks(Squarer(tmp_path), range(100, 118), engine=ENGINE)
    done = [next(results)[0]]
    nodes.remove_node(nodes.small, allow_graceful=False)
    started = time.monotonic()
    done += [task for task, _ in results]
    assert sorted(done) == list(range(100, 118))
    assert time.monotonic() - started < 45
    assert "its task is done again" in caplog.text


def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs ray, .* pip install 'deltactl\[cluster\]'"):
        list(run_tasks(Squarer(tmp_path), [1], engine=ENGINE))


def test_an_address_without_a_cluster_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster at '{address}' .*Connection refused.*ray start --head"):
            list(run_tasks(Squarer(tmp_path), [1], engine=ENGINE.model_copy(update={"address": address})))


def test_settings_that_clash_are_refused() -> None:
    with pytest.raises(ValueError, match="address is 'auto', which goes with --engine ray only"):
        EngineConfig(address="auto")
    with pytest.raises(ValueError, match="workers is 0"):
        EngineConfig(engine="ray", workers=0)


class Killer:
    """Kills the first worker that is seen in the middle of a task."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._watch)
        self._stop = threading.Event()
        self._killed = False

    def _watch(self) -> None:
        while not self._stop.is_set() and not self._killed:
            for process in psutil.Process().children(recursive=True):  # of this cluster, not of any other
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "ray::RayWorker.run" in " ".join(process.cmdline()):
                        process.kill()
                        self._killed = True
                        break

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._killed, "no worker was seen at work"
