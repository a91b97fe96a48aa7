"""Records by name: the package's own and those of plug-ins; a plug-in that is broken stands in nobody's way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from plugins import write_metadata

from deltactl.errors import ConfigError
from deltactl.registry import BACKBONES, LOSSES, NETWORKS, Registry

GROUP = "deltactl.fruits"


@dataclass(frozen=True)
class Fruit:
    """A record."""

    name: str


APPLE, PEAR = Fruit("apple"), Fruit("pear")
sys.modules.setdefault("fruits_of_the_tests", sys.modules[__name__])
OWN = (("apple", "fruits_of_the_tests:APPLE"), ("pear", "fruits_of_the_tests:PEAR"))
Bring = Callable[..., None]


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Install a package with one module and the entry points that are given."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(package: str, code: str = "", **entries: str) -> None:
        (tmp_path / f"{package}.py").write_text(f"from fruits_of_the_tests import Fruit\n{code}\n")
        write_metadata(tmp_path, package, {GROUP: {key: f"{package}:{value}" for key, value in entries.items()}})
        monkeypatch.delitem(sys.modules, package, raising=False)

    return add


def fruits() -> Registry:
    return Registry(GROUP, "fruit", OWN)


def test_records_are_found_by_name_the_packages_own_first(bring: Bring) -> None:
    bring("zoo", 'FIG, LIME = Fruit("fig"), Fruit("lime")', lime="LIME", fig="FIG")
    registry = fruits()
    assert registry.names() == ("apple", "pear", "fig", "lime")
    assert registry.get("pear", Fruit) is PEAR
    assert registry.get("fig", Fruit) == Fruit("fig")
    assert [fruit.name for fruit in registry.each(Fruit)] == ["apple", "pear", "fig", "lime"]


def test_names_are_known_and_checked_without_importing_a_module(bring: Bring) -> None:
    bring("unseen", 'raise RuntimeError("was imported")', fig="FIG")
    registry = fruits()
    assert "fig" in registry.names()
    registry.check("fig")
    next(registry.each(Fruit))
    assert "unseen" not in sys.modules


def test_an_unknown_name_is_refused_with_the_nearest_and_all_others() -> None:
    with pytest.raises(ConfigError, match=r"^there is no fruit 'aple'; did you mean 'apple'\? known: apple, pear$"):
        fruits().get("aple", Fruit)
    with pytest.raises(ConfigError, match=r"^there is no fruit 'xyz'; known: apple, pear$"):
        fruits().check("xyz")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_module_that_is_not_there", r"broken:FIG cannot be imported \(ModuleNotFoundError: No module named"),
        ("", r"broken:FIG cannot be imported \(AttributeError: .*FIG"),
        ("raise SystemExit(3)", r"cannot be imported \(SystemExit: 3\)"),
        ("FIG = 'fig'", "broken:FIG is of type str, expected Fruit"),
        ("FIG = Fruit('figs')", "broken:FIG calls itself 'figs'; both names must agree"),
    ],
)
def test_a_broken_plugin_is_named_once_and_an_error_only_where_it_is_asked_for(
    bring: Bring, caplog: pytest.LogCaptureFixture, code: str, reason: str
) -> None:
    bring("broken", code, fig="FIG")
    bring("whole", 'LIME = Fruit("lime")', lime="LIME")
    registry = fruits()
    for _ in range(2):
        assert [fruit.name for fruit in registry.each(Fruit)] == ["apple", "pear", "lime"]
    (warning,) = caplog.messages
    with pytest.raises(ConfigError, match=reason) as raised:
        registry.get("fig", Fruit)
    assert str(raised.value) == warning
    assert warning.startswith("the fruit 'fig' of the package broken cannot be used: ")
    assert warning.endswith("; mend or uninstall broken")
    assert "\n" not in warning


def test_a_name_that_two_plugins_bring_is_nobodys(bring: Bring, caplog: pytest.LogCaptureFixture) -> None:
    bring("first", 'FIG = Fruit("fig")', fig="FIG")
    bring("second", 'FIG = Fruit("fig")', fig="FIG")
    registry = fruits()
    assert [fruit.name for fruit in registry.each(Fruit)] == ["apple", "pear"]
    with pytest.raises(
        ConfigError, match="the fruit 'fig' of the package first cannot be used: the package second brings one"
    ):
        registry.get("fig", Fruit)
    assert len(caplog.messages) == 1


def test_a_plugin_does_not_take_the_place_of_a_record_of_the_package(
    bring: Bring, caplog: pytest.LogCaptureFixture
) -> None:
    bring("usurper", 'APPLE = Fruit("apple")', apple="APPLE")
    registry = fruits()
    assert registry.get("apple", Fruit) is APPLE
    assert registry.names() == ("apple", "pear")
    assert caplog.messages == [
        "the package usurper brings a fruit 'apple', which is a name of deltactl's own; that one is used"
    ]


def test_a_fault_of_the_package_itself_is_no_plugins() -> None:
    with pytest.raises(ModuleNotFoundError):
        Registry(GROUP, "fruit", (("kiwi", "deltactl.nowhere:KIWI"),)).get("kiwi", Fruit)


def test_every_record_of_the_package_is_where_the_list_says() -> None:
    from deltactl.featurize.backbones.family import Family
    from deltactl.train.networks.kinds import Kind
    from deltactl.train.networks.losses import Loss

    assert [kind.name for kind in NETWORKS.each(Kind)] == list(NETWORKS.names())
    assert [loss.name for loss in LOSSES.each(Loss)] == list(LOSSES.names())
    assert [family.name for family in BACKBONES.each(Family)] == list(BACKBONES.names())
