"""What several files of tests of evaluations ask for, by `usefixtures`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home for all tests of a file."""
    return str(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def shared_cache(home: str, monkeypatch: pytest.MonkeyPatch, _own_home: None) -> None:
    """Shards and features that one test of a file made are there for the others."""
    monkeypatch.setenv("DELTACTL_HOME", home)
