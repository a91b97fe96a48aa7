"""`deltactl doctor` says what is there, what is missing and what to do, and gives no secret away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deltactl import machine
from deltactl.cli import main
from deltactl.machine import HEADS, ROOTS, Finding, dali_codecs, examine

Monkey = pytest.MonkeyPatch


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Monkey) -> Path:
    """Return a home folder of the test's own, without any account."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def findings(look: Callable[[], object]) -> dict[str, Finding]:
    """Return the findings of one group by name."""
    found = look()
    return {each.name: each for each in found}  # type: ignore[attr-defined]


def test_it_prints_every_group_and_a_remedy_for_what_is_missing(
    home: Path, monkeypatch: Monkey, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(machine, "dali_codecs", lambda device: {"vp9": None, "h264": "no"})
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for group in ("machine", "GPU", "decoders", "data", "accounts", "extras"):
        assert f"\n{group}\n" in f"\n{out}"
    missing = [line for line in out.splitlines() if line.startswith("  missing")]
    assert any("KINETICS_ROOT" in line for line in missing)
    assert all(" → " in line for line in missing)
    assert main(["doctor", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"group", "name", "found", "detail", "remedy"} == set(listed[0])
    assert len(listed) == len([line for line in out.splitlines() if line.startswith("  ")])


def test_dali_is_tried_on_real_videos() -> None:
    pytest.importorskip("nvidia.dali")
    codecs = dali_codecs("cpu")
    assert {codec for codec, reason in codecs.items() if reason is None} == {"vp8", "vp9", "mjpeg"}
    assert all(reason for codec, reason in codecs.items() if codec in ("h264", "hevc", "av1"))


def test_a_missing_compiler_is_a_finding_with_what_to_install(monkeypatch: Monkey) -> None:
    monkeypatch.setattr(machine, "compile_fault", lambda device_type: "there is no C compiler; install gcc")
    found = machine._compiler("cuda")
    assert (found.name, found.found, found.detail) == ("torch.compile", False, "there is no C compiler")
    assert found.remedy == "install gcc; without it networks run slower on the GPU"
    monkeypatch.setattr(machine, "compile_fault", lambda device_type: None)
    assert findings(machine._gpu)["torch.compile"].found


@pytest.mark.gpu
def test_dali_is_tried_on_the_gpu() -> None:
    pytest.importorskip("nvidia.dali")
    codecs = dali_codecs("gpu")
    assert codecs["h264"] is None
    assert codecs["hevc"] is None


def test_roots_and_heads_are_found_missing_or_remote(home: Path, monkeypatch: Monkey) -> None:
    (home / "vspw").mkdir()
    monkeypatch.setenv("VSPW_ROOT", str(home / "vspw"))
    monkeypatch.setenv("KITTI_ROOT", str(home / "nowhere"))
    monkeypatch.setenv("KINETICS_ROOT", "s3://me:secret-pass@bucket/kinetics")
    monkeypatch.setenv("VSPW_HEAD_PATH", "Amazon-FAR/seg-head-vspw")
    found = findings(machine._data)
    assert set(found) == {*ROOTS, *HEADS}
    assert found["VSPW_ROOT"].found
    assert not found["KITTI_ROOT"].found
    assert found["KITTI_ROOT"].detail == f"{home / 'nowhere'} does not exist"
    assert not found["CITYSCAPES_ROOT"].found
    assert found["VSPW_HEAD_PATH"].found
    assert found["KINETICS_ROOT"].detail == "s3://***@bucket/kinetics (remote; not looked at)"


def test_a_login_is_said_but_never_shown(home: Path, monkeypatch: Monkey) -> None:
    found = findings(machine._accounts)
    assert not any(each.found for each in found.values())
    assert "hf auth login" in found["Hugging Face"].remedy
    assert "https://huggingface.co/facebook/dinov3" in found["DINOv3 ViT-B"].remedy
    (home / "token").write_text("hf_secretsecret")
    (home / ".netrc").write_text("machine api.wandb.ai login user password 0123456789abcdef\n")
    found = findings(machine._accounts)
    assert found["Hugging Face"].found
    assert found["Weights & Biases"].found
    assert "secret" not in str(found)
    assert "0123456789abcdef" not in str(found)
    (home / ".netrc").write_text("not a netrc {{{\n")
    assert not findings(machine._accounts)["Weights & Biases"].found


def test_a_cached_backbone_is_found(home: Path) -> None:
    repository = home / "hub" / "models--facebook--dinov3-vitb16-pretrain-lvd1689m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(b"weights")
    assert findings(machine._accounts)["DINOv3 ViT-B"].found


def test_a_workspace_that_does_not_exist_yet_is_measured_where_it_will_be(home: Path, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(home / "not" / "yet"))
    found = findings(machine._machine)["workspace"]
    assert found.found
    assert found.detail.endswith("free")
    monkeypatch.setenv("DELTACTL_HOME", "s3://bucket/home")
    assert "object store" in findings(machine._machine)["workspace"].detail


def test_a_part_that_breaks_is_a_finding_and_the_rest_goes_on(home: Path, monkeypatch: Monkey) -> None:
    def broken() -> object:
        raise RuntimeError("libcuda\nis from another age, token=qwertyuiop")

    monkeypatch.setattr(machine, "_gpu", broken)
    monkeypatch.setattr(machine, "_decoders", lambda: iter(()))
    found = list(examine())
    broken_part = next(each for each in found if each.group == "GPU")
    assert not broken_part.found
    assert broken_part.detail == "could not be looked at (RuntimeError: libcuda is from another age, token=***)"
    assert found[-1].group == "extras"
