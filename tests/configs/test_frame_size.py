"""The size of frames: what is read as one, what is written of it, what is refused and how."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.artifacts import Identity
from deltactl.cli import main
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.configs.follow import default_size
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.load import resolve
from deltactl.configs.show import to_yaml
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.yaml_text import read_yaml
from deltactl.errors import ConfigError, DamagedError

sides = st.integers(16, 99_999)


@given(sides, sides)
def test_what_is_written_reads_back(height: int, width: int) -> None:
    size = FrameSize(height, width)
    assert FrameSize.of(size.value) == FrameSize.of(str(size)) == FrameSize.of(f"{height}x{width}") == size
    assert isinstance(size.value, int) == size.square == (height == width)
    assert pickle.loads(pickle.dumps(size)) == size


def test_height_comes_first_and_a_square_is_a_number() -> None:
    assert FrameSize.of("266x518") == FrameSize(height=266, width=518)
    assert FrameSize.of("512x512") == FrameSize.of("512") == FrameSize.of(512)
    assert (FrameSize.of("512x512").value, FrameSize.of("266x518").value) == (512, "266x518")
    assert (FrameSize(266, 518).pixels, FrameSize(100, 200).aspect) == (137_788, 2.0)


@pytest.mark.parametrize("value", [15, 0, -16, 64.0, True, None, "", "64 px", "64x", "x64", "8x64", "64x8", [64, 96]])
def test_anything_else_is_refused_with_what_was_expected(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected N or HxW .* such as 512 or 266x518$"):
        FrameSize.of(value)


@pytest.mark.parametrize("text", ["266X518", "266*518", "266,518", "266×518", "266 x 518", "266:518"])
def test_what_people_write_elsewhere_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"did you mean 266x518\?$"):
        FrameSize.of(text)


@given(sides, sides, sides, sides)
def test_a_size_fits_within_another_by_both_sides(height: int, width: int, rows: int, columns: int) -> None:
    one, other = FrameSize(height, width), FrameSize(rows, columns)
    assert one.fits_within(other) == (height <= rows and width <= columns)
    assert one.fits_within(one)


@pytest.mark.parametrize(
    ("default", "stored", "taken"), [("256", "512", "256"), ("512", "256", "256"), ("256", "518x266", "518x266")]
)
def test_live_frames_follow_what_is_stored(default: str, stored: str, taken: str) -> None:
    assert default_size(FrameSize.of(default), FrameSize.of(stored)) == FrameSize.of(taken)


# --- in configurations -----------------------------------------------------------------------------------------------


def test_configurations_keep_it_as_a_number_or_text() -> None:
    assert IngestConfig(size=64).size == FrameSize(64, 64)
    for given_size, value in ((64, 64), ("48x80", "48x80"), ("64x64", 64)):
        config = EvaluateConfig(size=given_size)
        assert config.model_dump(mode="json")["size"] == value
        assert EvaluateConfig.model_validate_json(config.model_dump_json()) == config
        assert read_yaml(to_yaml(config, "evaluate"), "it")["size"] == value
    assert TokenizerConfig().size == FrameSize(256, 256)


def test_flags_files_and_set_take_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "mine.yaml"
    file.write_text("stage: ingest\nsize: 48x80\n")
    assert resolve(IngestConfig, config=str(file)).size == FrameSize(48, 80)
    assert resolve(IngestConfig, config=str(file), assignments=["size=96"]).size == FrameSize(96, 96)
    assert resolve(IngestConfig, flags={"size": FrameSize(48, 64)}).size == FrameSize(48, 64)
    with pytest.raises(ConfigError, match=r"'size' is 48X80 \(from --set\); expected N or HxW .*did you mean 48x80\?"):
        resolve(IngestConfig, assignments=["size=48X80"])


def test_the_command_line_refuses_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ingest", "featurize", "tokenize", "eval", "plan"):
        assert main([command, "--size", "518*266"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "'--size': '518*266'; expected N or HxW in pixels" in line
        assert "did you mean 518x266?" in line


def test_identities_say_it_and_damaged_ones_are_named() -> None:
    assert Identity("shards", {"size": 64}).size == FrameSize(64, 64)
    assert Identity("shards", {"size": "48x80"}).size == FrameSize(48, 80)
    for value in ("48*80", 3, None):
        with pytest.raises(DamagedError, match=r"a/artifact.json is damaged: .*size.*; expected a size of frames"):
            _ = Identity("shards", {"size": value}, "a/artifact.json").size
    with pytest.raises(DamagedError, match="size"):
        _ = Identity("shards", {}, "a/artifact.json").size


def test_json_of_values_has_no_objects_in_it() -> None:
    assert json.loads(IngestConfig(size="48x80").model_dump_json())["size"] == "48x80"
