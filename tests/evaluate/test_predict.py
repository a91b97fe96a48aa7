"""`deltactl predict`: which frames it starts from, what it leaves behind, and what it says when it cannot."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluations import GOLDEN, TREES, quiet
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from videos import make_video, read_number

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.predict import PredictConfig
from deltactl.errors import SourceError
from deltactl.evaluate.predict import files as prediction_files
from deltactl.evaluate.predict.context import ReadTask, Wanted, choose_crop, choose_moments, read_context
from deltactl.evaluate.predict.run import run_predict
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.ingest.shards.geometry import Box, cut, resize
from deltactl.locations import Location
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.networks.deltatok import TOKENIZER
from deltactl.train.networks.heads import LinearHeadConfig
from deltactl.train.networks.known_kinds import kind_named

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = {
    "backbone": str(GOLDEN / "backbone"),
    "tokenizer": str(GOLDEN / "deltatok.bin"),
    "world": str(GOLDEN / "deltaworld.bin"),
}
FLAGS = [*(word for name, place in WEIGHTS.items() for word in (f"--{name}", place)), "--size", "64"]
HEADS = tuple(str(GOLDEN / f"head_{name}.bin") for name in ("cityscapes", "kitti"))
RATE, FRAMES = 30, 60


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("videos") / "street.mp4", frames=FRAMES, rate=RATE)


def settings(video: Path, **changes: Any) -> PredictConfig:
    return PredictConfig(**{"video": str(video), "size": 64, "samples": 3, "device": "cpu", **WEIGHTS, **changes})


def features_in(folder: Location | Path) -> dict[str, np.ndarray]:
    with np.load(Path(str(folder)) / "features.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def predicted(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction from the middle of the video, with heads, so that there is a truth."""
    out = tmp_path_factory.mktemp("out") / "prediction"
    config = settings(video, at=1.0, heads=HEADS, rgb_head=str(GOLDEN / "head_rgb.bin"), out=str(out))
    return run_predict(config, quiet).path


# --- which frames ----------------------------------------------------------------------------------------------------


def moments_of(times: Any, **changes: Any) -> Any:
    wanted: dict[str, Any] = {"context": 4, "horizon": 3, "stride_seconds": 0.2, "at_seconds": None}
    return choose_moments(np.asarray(times, np.float64), Wanted(**{**wanted, **changes}))


def test_the_context_ends_with_the_video() -> None:
    moments = moments_of(np.arange(50) / 25)
    assert moments.context == (34, 39, 44, 49)
    assert moments.truth == ()
    assert moments.future_times == pytest.approx((2.16, 2.36, 2.56))


def test_what_came_after_the_context_is_found() -> None:
    moments = moments_of(np.arange(50) / 25, at_seconds=1.6, horizon=4)
    assert moments.context == (25, 30, 35, 40)
    assert moments.truth == (45,)
    assert moments.future_times == pytest.approx((1.8, 2.0, 2.2, 2.4))


def test_times_are_counted_from_the_first_frame() -> None:
    times = np.arange(50) / 25
    late, early = moments_of(times + 7.3, at_seconds=1.0), moments_of(times, at_seconds=1.0)
    assert (late.context, late.truth) == (early.context, early.truth)
    assert late.context_times == pytest.approx(early.context_times)
    assert late.future_times == pytest.approx(early.future_times)


def test_frames_of_a_variable_rate_carry_their_own_times() -> None:
    times = [0, 0.19, 0.42, 0.6, 0.79, 1.02]
    moments = moments_of(times, at_seconds=0.6)
    assert moments.context == (0, 1, 2, 3)
    assert moments.context_times == (0, 0.19, 0.42, 0.6)
    assert moments.truth == (4, 5)
    assert moments.future_times == pytest.approx((0.79, 1.02, 1.22))


@given(
    gaps=st.lists(st.floats(0.01, 0.5), min_size=1, max_size=60),
    context=st.integers(1, 6),
    horizon=st.integers(1, 4),
    stride=st.floats(0.02, 0.6),
    at=st.none() | st.floats(0, 10),
)
def test_chosen_frames_are_in_order_and_exist(
    gaps: list[float], context: int, horizon: int, stride: float, at: float | None
) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    try:
        moments = moments_of(times, context=context, horizon=horizon, stride_seconds=stride, at_seconds=at)
    except SourceError:
        return
    frames = [*moments.context, *moments.truth]
    assert len(moments.context) == context
    assert len(moments.future_times) == horizon
    assert frames == sorted(set(frames))
    assert frames[0] >= 0
    assert frames[-1] < len(times)
    assert moments.context_times == tuple(times[list(moments.context)])
    everything = [*moments.context_times, *moments.future_times]
    assert everything == sorted(everything)
    assert list(moments.future_times[: len(moments.truth)]) == [times[frame] for frame in moments.truth]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 11}, r"is 1.96 s long; 11 frames 0.2 s apart need 2 s: use a smaller --stride or --context"),
        ({"at_seconds": 0.5}, r"has 0.5 s before --at; 4 frames .* or a later --at"),
        ({"at_seconds": 3}, r"--at 3 is beyond its last frame, which is shown at 1.96 s"),
        ({"stride_seconds": 0.01}, r"its frames are up to 0.04 s apart, so that --stride 0.01 would take one of them"),
    ],
)
def test_a_video_that_does_not_do_says_what_would(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        moments_of(np.arange(50) / 25, **changes)


def test_a_single_frame_is_a_context_of_one() -> None:
    assert moments_of([3.0], context=1).context == (0,)


def test_a_wide_frame_gives_the_square_in_its_middle_or_all_of_it() -> None:
    assert choose_crop(720, 1280, "centre", FrameSize.of(512), 16) == (Box(0, 280, 720, 720), (512, 512))
    assert choose_crop(1280, 720, "centre", FrameSize.of(512), 16) == (Box(280, 0, 720, 720), (512, 512))
    assert choose_crop(720, 1280, "whole", FrameSize.of(512), 16) == (Box(0, 0, 720, 1280), (512, 912))
    assert choose_crop(1280, 720, "whole", FrameSize.of(512), 16) == (Box(0, 0, 1280, 720), (912, 512))
    with pytest.raises(SourceError, match="use --crop centre"):
        choose_crop(100, 401, "whole", FrameSize.of(64), 16)


def test_the_frames_that_were_asked_for_are_read(video: Path) -> None:
    frames = read_context(ReadTask(video, Wanted(4, 3, 0.2, 1.0), "whole", FrameSize.of(96), 16))
    assert frames.moments.context == (12, 18, 24, 30)
    assert frames.moments.truth == (36, 42, 48)
    assert [read_number(picture) for picture in frames.pixels] == [12, 18, 24, 30, 36, 42, 48]
    assert frames.pixels.shape[1:] == (96, 160, 3)
    assert frames.share == 1


# --- what it leaves behind -------------------------------------------------------------------------------------------


def test_everything_is_there(predicted: Path) -> None:
    stems = [f"context{number}" for number in range(1, 5)] + [f"truth_step{step}" for step in range(1, 4)]
    stems += [f"sample{sample}_step{step}" for sample in range(3) for step in range(1, 4)]
    for head in ("cityscapes", "kitti", "rgb"):
        assert sorted(path.name for path in (predicted / head).iterdir()) == sorted(f"{stem}.png" for stem in stems)
    assert {path.name for path in predicted.iterdir()} == {
        *("artifact.json", "futures.gif", "futures.png", "features.npz", "prediction.json"),
        *("cityscapes", "kitti", "rgb"),
    }
    assert read_header(Location.of(predicted)).identity.kind == "prediction"


def test_features_are_the_backbones_and_carry_their_times(predicted: Path, video: Path) -> None:
    arrays = features_in(predicted)
    assert arrays["context"].dtype == arrays["futures"].dtype == np.float16
    assert arrays["context"].shape == (4, 16, 128)
    assert arrays["futures"].shape == (3, 3, 16, 128)
    assert arrays["truth"].shape == (3, 16, 128)
    assert arrays["grid"].tolist() == [4, 4]
    assert arrays["context_times"] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert arrays["future_times"] == pytest.approx([1.2, 1.4, 1.6])
    frames = read_context(ReadTask(video, Wanted(4, 1, 0.2, 1.0), "whole", FrameSize.of(96), 16))
    square = resize(np.ascontiguousarray(cut(frames.pixels[0], Box(0, 32, 96, 96))), 64, 64)
    backbone = Backbone.load(GOLDEN / "backbone", "cpu")
    wanted = backbone(torch.from_numpy(square).permute(2, 0, 1)[None])
    assert np.allclose(arrays["context"][0], wanted[0].numpy(), atol=2e-2)


def test_weights_and_distances_are_told(predicted: Path) -> None:
    arrays = features_in(predicted)
    identity = json.loads(str(arrays["identity"]))
    assert identity["weights"]["tokenizer"] == network_hash(load(GOLDEN / "deltatok.bin", TOKENIZER))
    assert set(identity["weights"]) == {"backbone", "tokenizer", "world", "cityscapes", "kitti", "rgb"}
    told = json.loads((predicted / "prediction.json").read_text())
    apart = arrays["futures"].astype(np.float32) - arrays["truth"].astype(np.float32)
    loss = np.where(abs(apart) < 0.1, apart**2 / 0.2, abs(apart) - 0.05).mean((2, 3))
    assert np.allclose(told["losses"], loss, rtol=1e-3)
    assert np.allclose(arrays["losses"], told["losses"])
    assert told["closest"] == int(np.argmin([losses[-1] for losses in told["losses"]])), "counted as the arrays are"
    assert told["truth_frames"] == [36, 42, 48]


def test_head_outputs_are_classes_and_metres_of_the_predicted_features(predicted: Path) -> None:
    feature = torch.from_numpy(features_in(predicted)["futures"][1, 2].astype(np.float32))
    grid = feature.T.reshape(1, 128, 4, 4)
    resized = [
        torch.nn.functional.interpolate(
            load(GOLDEN / f"head_{name}.bin", kind_named(name))(grid), (64, 64), mode="bilinear"
        )
        for name in ("cityscapes", "kitti")
    ]
    mask, depth = (
        cv2.imread(str(predicted / head / "sample1_step3.png"), cv2.IMREAD_UNCHANGED)
        for head in ("cityscapes", "kitti")
    )
    assert mask.dtype == np.uint8
    assert (mask == resized[0].argmax(1)[0].numpy()).mean() > 0.99
    assert depth.dtype == np.uint16
    assert np.allclose(depth / 256, resized[1][0, 0].detach().numpy(), atol=0.05)


def test_pictures_show_every_moment(predicted: Path) -> None:
    with Image.open(predicted / "futures.gif") as film:
        assert film.n_frames == 7  # 4 + 3 moments
    with Image.open(predicted / "futures.png") as sheet:
        # frames, and true frames in each of three renderings; for each of these what came, copy last, mean, spread
        assert sheet.height > (4 + 3 * 4) * 128
    with Image.open(predicted / "rgb" / "context1.png") as picture:
        assert picture.size == (64, 64)


def test_features_beyond_float16_are_predicted_and_written_as_float32(video: Path, tmp_path: Path) -> None:
    loud = Path(shutil.copytree(GOLDEN / "backbone", tmp_path / "loud"))
    weights = load_file(loud / "model.safetensors")
    weights["norm.weight"][37] *= 1e6
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    said = settings(video, backbone=str(loud), samples=1, out=str(tmp_path / "out"))
    arrays = features_in(run_predict(said, quiet).path)
    assert np.abs(arrays["context"]).max() > 65504
    for name in ("context", "futures", "truth"):
        assert arrays[name].dtype == np.float32
        assert np.isfinite(arrays[name]).all()


# --- repeated, replaced, stopped -------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bytes_and_another_other_futures(video: Path, tmp_path: Path) -> None:
    def folder_of(name: str, seed: int) -> Path:
        return run_predict(settings(video, seed=seed, samples=2, out=str(tmp_path / name)), quiet).path

    one, again, other = folder_of("one", 0), folder_of("again", 0), folder_of("other", 1)
    for name in ("features.npz", "futures.png", "futures.gif", "prediction.json"):
        assert (one / name).read_bytes() == (again / name).read_bytes(), name
    futures = [features_in(folder)["futures"] for folder in (one, other)]
    assert (futures[0] != futures[1]).any()
    assert (futures[0][0] != futures[0][1]).any(), "samples differ"


def test_a_head_for_a_set_that_a_file_told_serves_where_the_file_is_not(video: Path, tmp_path: Path) -> None:
    network = kind_named("blocks.segmentation.2").build(LinearHeadConfig(128, 2))
    head, out = tmp_path / "head.ckpt", tmp_path / "out"
    torch.save({"state_dict": dict(network.state_dict()), "deltactl": header_of(network)}, head)
    words = ["predict", str(video), *FLAGS, "--samples", "1", "--out", str(out)]
    assert main([*words, "--head", str(head)]) == 0
    classes = cv2.imread(str(out / "blocks.segmentation.2" / "sample0_step3.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(classes)) <= {0, 1}
    assert main([*words, "--yes"]) == 0
    assert not (out / "blocks.segmentation.2").exists()


def test_an_earlier_prediction_is_replaced_and_anything_else_is_not(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["predict", str(video), *FLAGS, "--samples", "2", "--out", str(out)]
    assert main([*words, "--head", HEADS[0]]) == 0
    assert (out / "cityscapes").is_dir()
    assert main([*words, "--yes"]) == 0
    assert not (out / "cityscapes").exists()
    assert (out / "futures.png").is_file()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    capsys.readouterr()
    assert main([*words[:-1], str(mine)]) == 1
    assert capsys.readouterr().err == (
        f"error: {mine} holds something other than a prediction; choose another --out, or empty it\n"
    )
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_a_disk_that_fills_up_leaves_the_earlier_prediction_whole(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, moments: object) -> None:
        path.write_bytes(b"GIF8")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    out = tmp_path / "out"
    words = ["predict", str(video), *FLAGS, "--samples", "1", "--out", str(out)]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(prediction_files, "write_gif", full)
    assert main([*words, "--seed", "1", "--yes"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_by_default_it_goes_to_the_workspace_and_says_where(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(video), *FLAGS, "--samples", "1"]) == 0
    (folder,) = (path for path in (tmp_path / "workspace" / "reports").iterdir() if path.name[0] != ".")
    assert folder.name.startswith("predict-street-")
    output, said = capsys.readouterr()
    assert output.splitlines() == [str(folder / name) for name in ("futures.png", "futures.gif", "features.npz")]
    assert said.startswith("of its 160 × 96 pixels the square in the middle is used, 60 % of the picture")
    assert features_in(folder)["truth"].shape == (0, 16, 128)


def test_a_whole_frame_has_a_grid_that_is_not_square(video: Path, tmp_path: Path) -> None:
    config = settings(video, crop="whole", heads=HEADS[:1], samples=1, out=str(tmp_path / "out"))
    arrays = features_in(run_predict(config, quiet))
    assert arrays["grid"].tolist() == [4, 7]
    assert arrays["futures"].shape == (1, 3, 28, 128)
    with Image.open(tmp_path / "out" / "cityscapes" / "sample0_step1.png") as mask:
        assert mask.size == (112, 64)


def test_a_long_horizon_is_rolled_out(video: Path, tmp_path: Path) -> None:
    config = settings(video, horizon=8, context=2, stride=0.1, samples=2, out=str(tmp_path / "out"))
    arrays = features_in(run_predict(config, quiet))
    assert arrays["futures"].shape == (2, 8, 16, 128)
    assert arrays["future_times"] == pytest.approx(59 / 30 + 0.1 * np.arange(1, 9))


# --- frame folders ---------------------------------------------------------------------------------------------------


def test_folders_of_frames_are_read_by_their_seconds_or_their_rate(tmp_path: Path) -> None:
    pictures = sorted((TREES / "VSPW" / "data").iterdir())[0] / "origin"
    files = sorted(path for path in pictures.iterdir() if path.name[0] != ".")[:12]
    named, numbered = tmp_path / "named", tmp_path / "numbered"
    for number, file in enumerate(files):
        for path in (named / f"frame_{number / 10:.3f}{file.suffix}", numbered / f"f{number}{file.suffix}"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.read_bytes())
    wanted = Wanted(4, 3, 0.2, None)
    by_seconds = read_context(ReadTask(named, wanted, "centre", FrameSize.of(64), 16))
    by_rate = read_context(ReadTask(numbered, wanted, "centre", FrameSize.of(64), 16, frames_per_second=10))
    assert by_seconds.moments.context == by_rate.moments.context == (5, 7, 9, 11)
    assert np.array_equal(by_seconds.pixels, by_rate.pixels), "f10 comes after f9"


# --- what cannot be predicted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context", "30"], "street.mp4: is 1.967 s long; 30 frames 0.2 s apart need 5.8 s: use a smaller --stride"),
        (["--head", str(GOLDEN / "head_rgb.bin")], "found: RGB head; give it with --rgb-head"),
        (["--head", HEADS[0], "--head", HEADS[0]], "is a second segmentation head for Cityscapes; give one of each"),
        (["--size", "65"], "multiples of the backbone's patch size, 16"),
        (["--world", str(GOLDEN / "deltatok.bin")], "is a tokenizer (DeltaTok); a world model (DeltaWorld) was"),
        (["--fps", "10"], "is a file, which has its own times"),
    ],
)
def test_what_does_not_fit_is_one_clear_line_and_leaves_nothing(
    words: list[str], message: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(video), *FLAGS, *words]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert message in said[-1]
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; expected a video, or a folder of frames"),
        (b"not a video", "cannot be read as video"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "cannot be read as video"),
        (b"ffconcat version 1.0\nfile street.mp4\n", "cannot be read as video"),
    ],
)
def test_what_is_no_video_is_one_clear_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.mp4"
    if content is not None:
        path.write_bytes(content)
    assert main(["predict", str(path), *FLAGS]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {path}")
    assert message in said


def test_a_folder_without_frames_says_what_was_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "holidays"
    folder.mkdir()
    (folder / "notes.txt").write_text("sunny")
    assert main(["predict", str(folder), *FLAGS]) == 1
    assert "files named frame_SECONDS.jpg were expected; for files that are numbered" in capsys.readouterr().err
    assert main(["predict", str(folder), *FLAGS, "--fps", "15"]) == 1
    assert "holds no frames; JPEG or PNG files were expected" in capsys.readouterr().err


def test_networks_must_be_named(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(video), "--world", WEIGHTS["world"]]) == 1
    assert "'tokenizer' is missing" in capsys.readouterr().err
