"""What all tests share: where the golden files lie, a home of their own, and GPUs for the tests that are marked alone.

Settings of training take whatever GPUs there are, and compile there. The tests that are not about GPUs would then train
on them, under a check of shapes that cannot be compiled. So GPUs are hidden from all tests and their processes, unless
`-m gpu` (`make test-gpu`) asks for the marked ones.
"""

from __future__ import annotations

import gc
import os
import re
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from deltactl.locations import Location

# Tests run side by side, one to a core: more threads would wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("deltactl", deadline=None)
hypothesis.settings.load_profile("deltactl")

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden vectors and tiny published-format weights."""
    return TESTS / "golden"


@pytest.fixture(scope="session")
def trees() -> Path:
    """The folder of tiny data-set trees as their owners lay them out."""
    return TESTS / "trees"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's home, workspace and accounts."""
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "workspace"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("KINETICS_ROOT", "VSPW_ROOT", "CITYSCAPES_ROOT", "KITTI_ROOT", "DELTACTL_BACKBONE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("VSPW_HEAD_PATH", "CITYSCAPES_HEAD_PATH", "KITTI_HEAD_PATH", "RGB_HEAD_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the program in this process; returns exit code, stdout and stderr."""
    from programs import caller

    return caller(capsys)


@pytest.fixture(scope="module")
def endpoint() -> Generator[str, None, None]:
    """The address of an object store on this machine."""
    import s3fs
    from moto.server import ThreadedMotoServer

    s3fs.S3FileSystem.clear_instance_cache()  # of other stores: zarr finds its client again whatever the endpoint
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # sockets that moto, botocore and aiohttp leave to it: not while another file's test runs


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An empty place in that store."""
    import boto3

    from deltactl.locations import Location

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="deltactl")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="deltactl"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="deltactl", Key=item["Key"])
    return Location.of("s3://deltactl/home")


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the toy package is installed."""
    from plugins import TOYS, install

    folder = tmp_path_factory.mktemp("site")
    install(TOYS, folder)
    return folder


@pytest.fixture
def installed(toys: Path) -> Generator[None, None, None]:
    """The toy package is there."""
    from plugins import beside_deltactl

    with beside_deltactl(toys):
        yield


def wants_gpus(expression: str) -> bool:
    """Whether an expression of markers, as `-m` takes it, asks for tests on a GPU."""
    return re.search(r"(?<!\bnot )\bgpu\b", expression) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs before any test module imports torch; processes of the tests, and of xdist, inherit it."""
    if not wants_gpus(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on machines without one."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape names that are not UTF-8 in what a test logged and printed, which pytest-xdist cannot pass on."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
