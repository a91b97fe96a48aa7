"""Copies to and from a GPU wait for what they copy, and are read when they have arrived; on a recorded CUDA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_shards import make_clip
from small_training import make_features, make_shards

from deltactl.configs.frame_size import FrameSize
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.compute import Computer
from deltactl.featurize.pipeline.decode import ClipDecoder
from deltactl.featurize.pipeline.decode_dali import DaliClipDecoder
from deltactl.featurize.pipeline.events import ClipFrames, Job, RawClip
from deltactl.featurize.pipeline.transfers import Copies
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.shards.images import decode_frame_file
from deltactl.tokenization.encoder import Encoder
from deltactl.tokenization.features import StoreTokens
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.loading import load
from deltactl.train.networks.deltatok import TOKENIZER as KIND

GPU = torch.device("cuda", 0)
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


class Cuda:
    """What stands for `torch.cuda`: streams that only write down what is asked of them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []
        self.current = "compute"

    def say(self, *words: str) -> None:
        self.log.append(words)

    def where(self, *words: str) -> int:
        """Return when that was asked, the first time."""
        return self.log.index(words)


CUDA = Cuda()


class Stream:
    def __init__(self, device: torch.device, name: str = "copies") -> None:
        assert device == GPU
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        CUDA.say(self.name, "waits for", other.name)

    def wait_event(self, event: Event) -> None:
        CUDA.say(self.name, "waits for", event.name)

    def synchronize(self) -> None:
        CUDA.say("host", "waits for", self.name)


class Event:
    def __init__(self, blocking: bool = False) -> None:
        assert blocking, "whoever waits for it would keep a core busy"
        self.name = "event"

    def record(self, stream: Stream) -> None:
        self.name = f"event {len(CUDA.log)}"
        CUDA.say(stream.name, "records", "event")

    def synchronize(self) -> None:
        CUDA.say("host", "waits for", "event")


class Watched(torch.Tensor):
    """A tensor whose copies between memories are written down."""

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:  # type: ignore[override]
        CUDA.say(CUDA.current, "copies to host" if non_blocking else "blocks")
        return super().copy_(source)

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.device("cuda", 0) in args:
            CUDA.say(CUDA.current, "copies to device" if kwargs.get("non_blocking") else "blocks")
            return self.clone()
        return super().to(*args, **kwargs)

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        CUDA.say("memory", "kept for", stream.name)


@contextlib.contextmanager
def stream(entered: Stream) -> Iterator[None]:
    before, CUDA.current = CUDA.current, entered.name
    yield
    CUDA.current = before


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    CUDA.__init__()  # type: ignore[misc]
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(GPU, "compute"))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream(GPU, "compute"))
    empty = torch.empty

    def pinned(*shape: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = empty(*shape, **kwargs)
        return made.as_subclass(Watched) if pin_memory else made

    monkeypatch.setattr(torch, "empty", pinned)


def test_results_are_copied_after_they_are_computed_and_kept_until_then() -> None:
    source = torch.arange(6.0).as_subclass(Watched)
    arriving = Copies(GPU).to_host(source, source[:2])
    assert CUDA.log == [
        ("copies", "waits for", "compute"),
        ("copies", "copies to host"),
        ("copies", "copies to host"),
        ("copies", "records", "event"),
        ("memory", "kept for", "copies"),
        ("memory", "kept for", "copies"),
    ]
    whole, part = arriving.wait()
    assert CUDA.log[6:] == [("host", "waits for", "event")]
    assert whole.tolist() == [0, 1, 2, 3, 4, 5]
    assert part.tolist() == [0, 1]


def test_what_is_copied_to_a_gpu_is_waited_for_there_not_here() -> None:
    arriving = Copies(GPU).to_device(torch.arange(3.0).as_subclass(Watched))
    assert CUDA.log == [("copies", "copies to device"), ("copies", "records", "event")]
    arriving.here()
    assert CUDA.log[2:] == [("compute", "waits for", "event 1"), ("memory", "kept for", "compute")]


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(3.0)
    copies = Copies(torch.device("cpu"))
    assert copies.to_host(tensor).wait()[0] is tensor
    assert copies.to_device(tensor).here()[0] is tensor
    assert CUDA.log == []


@pytest.mark.parametrize("stays", [False, True])
def test_features_that_are_used_on_the_gpu_stay_there(golden: Path, stays: bool) -> None:
    computer = Computer(Backbone.load(golden / "backbone", "cpu"), FrameSize.of(64), 2, False)
    computer._copies = Copies(GPU)
    made: list[torch.Tensor] = []
    plain = computer._features

    def watched(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made[:] = [each.as_subclass(Watched) for each in plain(frames)]
        return tuple(made)

    computer._features = watched  # type: ignore[method-assign,assignment]
    frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    result = (computer.start_here if stays else computer.start)(frames)
    assert CUDA.log.count(("copies", "copies to host")) == (1 if stays else 4)
    assert (result.features.data_ptr() == made[0].data_ptr()) is stays
    assert ("host", "waits for", "event") not in CUDA.log
    features, found = result.wait()
    assert CUDA.log[-1] == ("host", "waits for", "event")
    assert torch.equal(features, made[0])
    assert found.storable(65504.0).all()


def test_decoded_crops_leave_dalis_buffer_before_it_is_used_again() -> None:
    decoder = DaliClipDecoder(ClipDecoder("augment", 0, 3, pinned=True), 0)
    clip = make_clip("a")
    images = [torch.from_numpy(decode_frame_file(data, "frame")) for data in clip.frames]
    cut = decoder._clips.cut

    def watched(*args: Any) -> Any:
        CUDA.say(CUDA.current, "cuts")
        return cut(*args)

    decoder._clips = type("Clips", (), {"frames": 3, "cut": staticmethod(watched)})()  # type: ignore[assignment]
    (frames,) = decoder._cut_on_gpu([RawClip(Job(0, "000000"), 0, clip)], images)
    assert isinstance(frames, ClipFrames)
    # Then the backbone's stream may use the memory, whenever the last reference goes.
    assert CUDA.log == [("copies", "cuts"), ("host", "waits for", "copies"), ("memory", "kept for", "compute")]


# --- the tokenizer ---


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("transfers")
    return make_features(make_shards(folder / "shards", units=1, clips=5), folder / "features")


def test_stored_features_are_copied_ahead_and_tokens_awaited_behind(
    features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TokenizeConfig(data=features, tokenizer=TOKENIZER, device="cpu", workers=0)
    tokenize(config.model_copy(update={"out": str(tmp_path / "plain")}))
    start, read, init = Encoder.start, StoreTokens._read, Encoder.__init__

    def pretend(self: Encoder, *args: Any) -> None:
        init(self, *args)
        self._copies = Copies(GPU)

    def watched(self: Encoder, clips: torch.Tensor) -> Any:
        CUDA.say("compute", "encodes", str(len(clips)))
        plain = self._tokens
        monkeypatch.setattr(self, "_tokens", lambda x: tuple(each.as_subclass(Watched) for each in plain(x)))
        try:
            return start(self, clips)
        finally:
            self._tokens = plain  # type: ignore[method-assign]

    monkeypatch.setattr(Encoder, "__init__", pretend)
    monkeypatch.setattr(Encoder, "start", watched)
    monkeypatch.setattr(StoreTokens, "_read", lambda *args: (each.as_subclass(Watched) for each in read(*args)))
    store = StoreTokens.__init__

    def uploading(self: StoreTokens, *args: Any) -> None:
        store(self, *args)
        self._uploads = Copies(GPU)

    monkeypatch.setattr(StoreTokens, "__init__", uploading)
    tokenize(config.model_copy(update={"out": str(tmp_path / "recorded")}))
    steps = [words for words in CUDA.log if words[1] in ("copies to device", "encodes") or words[0] == "host"]
    up, wait = ("copies", "copies to device"), ("host", "waits for", "event")
    encode = [("compute", "encodes", count) for count in ("2", "2", "1")]
    assert steps == [up, up, encode[0], up, encode[1], wait, encode[2], wait, wait]
    assert ("copies", "blocks") not in CUDA.log
    assert ("compute", "blocks") not in CUDA.log
    # Every batch is waited for on the device before it is encoded.
    for number, words in enumerate(CUDA.log):
        if words[1] == "encodes":
            waits = [each for each in CUDA.log[:number] if each[:2] == ("compute", "waits for")]
            assert len(waits) >= len([each for each in CUDA.log[: number + 1] if each[1] == "encodes"])
    one, other = (TokenStore.open(str(tmp_path / name)) for name in ("plain", "recorded"))
    assert torch.equal(one.read_clips(range(5)), other.read_clips(range(5)))


def test_tokens_of_a_short_batch_are_those_of_its_clips(features: str) -> None:
    with FeatureStore.open(features) as store:
        clips = store.read_clips(range(5))
        encoder = Encoder(load(TOKENIZER, KIND), store.black, store.grid, torch.device("cpu"), torch.float32)
        seen: list[int] = []

        class Padded:
            works = True

            def __call__(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                seen.append(len(features))
                return encoder._tokens(features)

        plain = [encoder.start(clips[2 * part : 2 * part + 2]).wait()[0] for part in range(3)]
        encoder._compiled = Padded()  # type: ignore[assignment]
        padded = [encoder.start(clips[2 * part : 2 * part + 2]).wait()[0] for part in range(3)]
    assert seen == [2, 2, 2], "one shape for the compiler"
    np.testing.assert_allclose(np.concatenate(padded), np.concatenate(plain), atol=1e-3)
    assert encoder.provenance["compiled"] is True
