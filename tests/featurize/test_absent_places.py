"""A place that is not there, or is something else, is said as what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deltactl.cli import main
from deltactl.errors import ArtifactError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.shards.format import ShardSet


@pytest.mark.parametrize("reader", [ShardSet.open, FeatureStore.open, TokenStore.open])
def test_readers_tell_what_is_absent_from_what_is_no_artifact(reader: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"/nothing does not exist; expected an artifact of deltactl"):
        reader(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"/file is not an artifact of deltactl: it is a file"):
        reader(str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match=r"/file/within does not exist"):
        reader(str(tmp_path / "file" / "within"))
    with pytest.raises(ArtifactError, match=r"is not an artifact of deltactl: it has no artifact\.json"):
        reader(str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "nothing"],
        ["info", "nothing"],
        ["featurize", "nothing"],
        ["tokenize", "nothing", "--tokenizer", "nothing"],
        ["train", "tokenizer", "nothing"],
        ["train", "world", "nothing"],
        ["export", "nothing", "--out", "there"],
    ],
)
def test_commands_say_that_a_path_does_not_exist(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "does not exist" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["file", "file/within/it"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "tokenizer"],
        ["train", "--recipe", "published"],
        ["featurize"],
        ["ingest", "videos"],
        ["export", "x", "--out", "there", "--debug"],
    ],
)
def test_a_workspace_that_is_a_file_is_named_with_its_variable(
    words: list[str], home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv("DELTACTL_HOME", home)
    assert main(words) == 1
    err = capsys.readouterr().err
    if words[0] not in ("export", "ingest"):  # these need no workspace before they find what else is wrong
        assert f"DELTACTL_HOME is {tmp_path / home}, but {tmp_path / 'file'} is a file; expected a folder" in err
    assert "Errno" not in err


def test_doctor_tells_of_a_workspace_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deltactl import machine

    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(machine, "dali_codecs", lambda device: {})
    assert main(["doctor"]) == 0
    assert "is a file; expected a folder" in capsys.readouterr().out
