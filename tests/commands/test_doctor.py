"""`deltactl doctor` says what is there, what is missing and what to do, and gives no secret away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deltactl import machine
from deltactl.cli import main
from deltactl.machine import NETWORKS, ROOTS, Finding, dali_codecs, examine
from deltactl.processor import bfloat16_instructions

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
    monkeypatch.setenv("VSPW_ROOT", "s3://me:secret-pass@bucket/vspw")
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for group in ("machine", "GPU", "decoders", "data", "accounts", "extras"):
        assert f"\n{group}\n" in f"\n{out}"
    missing = [line for line in out.splitlines() if line.startswith(("  missing", "  optional"))]
    assert any("KINETICS_ROOT" in line for line in missing)
    assert all(" → " in line for line in missing)
    assert "s3://***@bucket/vspw (remote; not looked at)" in out
    needed = [line.split()[1] for line in out.splitlines() if line.startswith("  missing")]
    assert needed == [], "nothing that all else works without is missing"
    assert main(["doctor", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "secret-pass" not in out + printed
    listed = json.loads(printed)
    assert {"group", "name", "found", "detail", "remedy", "optional"} == set(listed[0])
    assert len(listed) == len([line for line in out.splitlines() if line.startswith("  ")])


def test_dali_is_tried_on_real_videos() -> None:
    pytest.importorskip("nvidia.dali")
    codecs = dali_codecs("cpu")
    assert {codec for codec, reason in codecs.items() if reason is None} == {"vp8", "vp9", "mjpeg"}
    assert all(reason for codec, reason in codecs.items() if codec in ("h264", "hevc", "av1"))


@pytest.mark.gpu
def test_dali_is_tried_on_the_gpu() -> None:
    pytest.importorskip("nvidia.dali")
    codecs = dali_codecs("gpu")
    assert codecs["h264"] is None
    assert codecs["hevc"] is None


# --- the GPU, and what it is used with --------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch: Monkey) -> Callable[..., dict[str, Finding]]:
    """Return the findings of a machine that pretends to have a card, or whose torch cannot use it."""

    def look(
        fault: str | None = None, libraries: tuple[str, ...] = (), compiles: str | None = None
    ) -> dict[str, Finding]:
        def load(name: str) -> object:
            if name not in libraries:
                raise OSError(f"{name}: cannot open shared object file")
            return object()

        def init() -> None:
            if fault is not None:
                raise RuntimeError(fault)

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: fault is None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "init", init)
        properties = SimpleNamespace(name="NVIDIA H200", total_memory=150_000_000_000, major=9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(machine, "_driver", lambda: "580.65.06")
        monkeypatch.setattr(machine, "_driver_cuda", lambda: "13.0")
        monkeypatch.setattr(machine, "compile_fault", lambda device_type: compiles)
        monkeypatch.setattr(machine.ctypes, "CDLL", load)
        return findings(machine._gpu)

    return look


def test_a_card_is_named_with_its_driver_decoder_and_compiler(card: Callable[..., dict[str, Finding]]) -> None:
    found = card(libraries=("libnvcuvid.so.1",))
    assert all(each.found for each in found.values())
    assert found["driver"].detail == "NVIDIA 580.65.06, which knows CUDA 13.0"
    assert found["torch"].detail.endswith("(built for CUDA 13.0)")
    assert found["cuda:0"].detail == "NVIDIA H200, 150 GB, bf16"
    assert "NVDEC" in found


def test_what_a_card_lacks_comes_with_a_remedy(card: Callable[..., dict[str, Finding]]) -> None:
    found = card(compiles="there is no C compiler (CC, gcc or clang); install gcc")
    assert not found["torch.compile"].found
    assert found["torch.compile"].detail == "does not work for this GPU: there is no C compiler (CC, gcc or clang)"
    assert found["torch.compile"].remedy == "install gcc; without it networks run slower"
    assert not found["NVDEC"].found
    assert "NVIDIA_DRIVER_CAPABILITIES" in found["NVDEC"].remedy


def test_a_driver_that_is_too_old_is_named_with_both_versions(card: Callable[..., dict[str, Finding]]) -> None:
    found = card(fault="The NVIDIA driver on your system is too old (found version 11040). Please update your driver")
    assert not found["devices"].found
    assert "which knows CUDA 11.4, is too old for this torch, which is built for CUDA 13.0" in found["devices"].detail
    assert "update the driver" in found["devices"].remedy
    assert "NVDEC" not in found


def test_a_machine_without_a_card_is_asked_for_what_a_cpu_compiles_with(monkeypatch: Monkey) -> None:
    monkeypatch.setattr(machine, "_driver", lambda: None)
    monkeypatch.setattr(machine, "_driver_cuda", lambda: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = findings(machine._gpu)
    assert "there is no C++ compiler" in found["torch.compile"].detail
    assert "only needed for the setting compile=true" in found["torch.compile"].remedy


def test_the_processor_is_asked_for_bfloat16(monkeypatch: Monkey) -> None:
    for line, found in (
        ("flags\t\t: fpu avx2 avx512_bf16 amx_bf16 amx_tile", ["amx_bf16", "avx512_bf16"]),
        ("Features\t: fp asimd bf16", ["bf16"]),
        ("flags\t\t: fpu avx2", []),
    ):
        monkeypatch.setattr(Path, "read_text", lambda self, line=line: f"processor\t: 0\n{line}\n")
        assert bfloat16_instructions() == found
    assert machine._bfloat16(["amx_bf16", "avx512_bf16"]).startswith("amx_bf16 and avx512_bf16: --precision")
    assert machine._bfloat16([]).startswith("neither amx_bf16 nor avx512_bf16: float32 is the faster")
    assert "bfloat16" in findings(machine._machine)


# --- data and accounts -----------------------------------------------------------------------------------------------


def test_roots_and_heads_are_found_missing_or_remote(home: Path, monkeypatch: Monkey) -> None:
    (home / "vspw").mkdir()
    monkeypatch.setenv("VSPW_ROOT", str(home / "vspw"))
    monkeypatch.setenv("KITTI_ROOT", str(home / "nowhere"))
    monkeypatch.setenv("KINETICS_ROOT", "s3://bucket/kinetics")
    monkeypatch.setenv("VSPW_HEAD_PATH", "Amazon-FAR/seg-head-vspw")
    found = findings(machine._data)
    assert set(found) == {*ROOTS, *NETWORKS}
    assert found["VSPW_ROOT"].found
    assert not found["KITTI_ROOT"].found
    assert found["KITTI_ROOT"].detail == f"{home / 'nowhere'} does not exist"
    assert not found["KITTI_ROOT"].optional, "a path that was given and does not exist is a mistake"
    assert not found["CITYSCAPES_ROOT"].found
    assert found["CITYSCAPES_ROOT"].optional
    assert found["VSPW_HEAD_PATH"].found
    assert found["KINETICS_ROOT"].detail == "s3://bucket/kinetics (remote; not looked at)"


@pytest.mark.parametrize("said", ["{}", "{}?layers=8,11&norm=off", "mae:{}", "mae:{}?layers=2"])
def test_a_backbone_is_found_by_its_folder_whatever_stands_around_it(
    home: Path, monkeypatch: Monkey, said: str
) -> None:
    (home / "mine").mkdir()
    monkeypatch.setenv("DELTACTL_BACKBONE", said.format(home / "mine"))
    assert findings(machine._data)["DELTACTL_BACKBONE"].found
    monkeypatch.setenv("DELTACTL_BACKBONE", said.format("facebook/some-model"))
    assert "(remote; not looked at)" in findings(machine._data)["DELTACTL_BACKBONE"].detail
    monkeypatch.setenv("DELTACTL_BACKBONE", said.format(home / "nowhere"))
    assert "nowhere" in findings(machine._data)["DELTACTL_BACKBONE"].detail
    assert not findings(machine._data)["DELTACTL_BACKBONE"].found


def test_a_backbone_with_an_option_that_is_none_is_a_mistake(home: Path, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("DELTACTL_BACKBONE", "facebook/some-model?layer=2")
    found = findings(machine._data)["DELTACTL_BACKBONE"]
    assert not found.found
    assert "the option 'layer=2' of a backbone is no such" in found.detail


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
        raise RuntimeError("libcuda\nis from another age")

    monkeypatch.setattr(machine, "_gpu", broken)
    monkeypatch.setattr(machine, "_decoders", lambda: iter(()))
    found = list(examine())
    broken_part = next(each for each in found if each.group == "GPU")
    assert not broken_part.found
    assert broken_part.detail == "could not be looked at (RuntimeError: libcuda is from another age)"
    assert found[-1].group == "extras"
