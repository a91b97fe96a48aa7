"""Features as colours: the same features are the same colours, whatever was done to them on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from deltactl.featurize.pictures.pca import FeatureColours


def features_of(seed: int, patches: int, dim: int) -> torch.Tensor:
    """Return features that vary most along a few directions, as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(patches, 4, generator=generator) * torch.tensor([4.0, 2.0, 1.0, 0.1])
    return few @ torch.randn(4, dim, generator=generator) + torch.randn(dim, generator=generator)


def test_components_are_those_of_a_plain_singular_value_decomposition() -> None:
    features = features_of(0, 300, 12)
    found = FeatureColours.fit(features)
    centred = (features - features.mean(0)).double().numpy()
    wanted = np.linalg.svd(centred, full_matrices=False)[2][:3]
    assert np.allclose(np.abs(wanted @ found.components.numpy()), np.eye(3), atol=1e-6)
    assert np.allclose(found.mean, features.double().mean(0))


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(5, 60), st.integers(3, 20))
def test_the_sign_of_a_component_is_fixed(seed: int, patches: int, dim: int) -> None:
    features = features_of(seed, patches, dim)
    found = FeatureColours.fit(features)
    largest = found.components.gather(0, found.components.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    shuffled = features[torch.randperm(patches, generator=torch.Generator().manual_seed(seed))]
    # Another order of the patches rounds otherwise, which may move a byte by one, but flips no sign.
    apart = FeatureColours.fit(shuffled).rgb(features).int() - found.rgb(features).int()
    assert apart.abs().max() <= 1


def test_equal_features_have_equal_colours_in_predictions() -> None:
    true = features_of(1, 200, 16).reshape(2, 5, 20, 16)
    colours = FeatureColours.fit(true)
    whole = colours.rgb(true)
    assert whole.shape == (2, 5, 20, 3)
    assert whole.dtype == torch.uint8
    assert torch.equal(colours.rgb(true[1, 3]), whole[1, 3])
    assert colours.rgb(true + 0.3).ne(whole).any(), "other features have other colours"


def test_colours_use_the_whole_range_and_clip_beyond() -> None:
    features = features_of(2, 1000, 8)
    colours = FeatureColours.fit(features)
    shown = colours.rgb(features)
    assert (shown.amin(0) == 0).all()
    assert (shown.amax(0) == 255).all()
    assert shown.float().std(0).min() > 30
    far = colours.mean + 1e6 * colours.components.sum(1)
    assert colours.rgb(far[None]).tolist() == [[255, 255, 255]]


def test_real_features_are_coloured(golden: Path) -> None:
    features = load_file(golden / "cases.safetensors")["features"]
    colours = FeatureColours.fit(features[0])
    assert colours.rgb(features[0]).float().std(dim=(0, 1)).min() > 30
    assert torch.equal(FeatureColours.fit(features[0]).rgb(features[0]), colours.rgb(features[0]))


@pytest.mark.parametrize("features", [torch.ones(10, 5), torch.ones(1, 5), torch.full((4, 6), 3e4)])
def test_features_that_do_not_vary_are_grey(features: torch.Tensor) -> None:
    assert set(FeatureColours.fit(features).rgb(features).flatten().tolist()) == {128}


def test_a_component_that_is_rounding_is_not_blown_up() -> None:
    line = torch.linspace(-1, 1, 50)[:, None] * torch.arange(1.0, 9.0)
    shown = FeatureColours.fit(line).rgb(line)
    assert shown[:, 0].float().std() > 50
    assert set(shown[:, 1:].flatten().tolist()) == {128}


def test_features_that_cannot_be_fitted_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features are \(0, 5\); expected a patch or more"):
        FeatureColours.fit(torch.ones(0, 5))
    with pytest.raises(ValueError, match="3 wide or more"):
        FeatureColours.fit(torch.ones(9, 2))
    with pytest.raises(ValueError, match="NaN"):
        FeatureColours.fit(torch.tensor([[1.0, 2.0, float("nan")]]))
