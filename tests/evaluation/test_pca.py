"""Principal components of patches: against a plain decomposition, on clips that have few of them, and refusals."""

import numpy as np
import pytest
import torch

from vidtwin.evaluation.pca import fit_patch_pca

SIZE = (4, 32, 48)


def _clips(count: int = 6, sources: int = 3, seed: int = 0) -> list[torch.Tensor]:
    """Clips whose patches of 16 x 16 pixels are 0.5 and sums of `sources` fixed ones."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.rand(sources, 3, 4, 16, 16, generator=torch.Generator().manual_seed(9)) - 0.5
    clips = []
    for _ in range(count):
        weights = torch.rand(2, 3, sources, generator=generator) * 0.2
        patches = 0.5 + torch.einsum("hws,scfpq->hwcfpq", weights, fixed)
        clips.append(patches.permute(2, 3, 0, 4, 1, 5).reshape(3, *SIZE))
    return clips


def test_few_sources_come_back():
    pca = fit_patch_pca(_clips(), values=3 * 6)
    assert (pca.side, len(pca.basis), pca.values, pca.clips, pca.patches) == (16, 3, 18, 6, 36)
    new = _clips(1, seed=1)[0]
    torch.testing.assert_close(pca.control(new), new, atol=1e-4, rtol=0)
    worse = fit_patch_pca(_clips(), values=2 * 6 + 5)
    assert len(worse.basis) == 2 and (worse.control(new) - new).abs().max() > 0.01


def test_it_is_the_plain_decomposition():
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(19, 3, 2, 16, 16, generator=generator) * (0.1 * 0.6 ** torch.arange(19)).view(-1, 1, 1, 1, 1)
    clips = list(0.5 + torch.einsum("ns,scfhw->ncfhw", torch.rand(20, 19, generator=generator), sources))
    pca = fit_patch_pca(clips, values=5)
    rows = torch.stack(clips).flatten(1)
    _, _, basis = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = (rows[0] - rows.mean(0)) @ basis[:5].T @ basis[:5] + rows.mean(0)
    torch.testing.assert_close(pca.control(clips[0]).flatten(), expected.clamp(0, 1), atol=1e-3, rtol=0)
    assert np.array_equal(pca.basis, fit_patch_pca(clips, values=5).basis)
    assert pca.to_dict()["sha256"] == fit_patch_pca(clips, values=5).to_dict()["sha256"]


def test_patches_are_as_fine_as_the_values_allow():
    assert fit_patch_pca(_clips(), values=60).side == 16
    small = [clip[:, :, :24, :24] for clip in _clips()]
    assert fit_patch_pca(small, values=40).side == 12  # 16 does not fit
    large = [torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    assert fit_patch_pca(large, values=4).side == 32  # 16 patches are more than 4 values


def test_refusals():
    with pytest.raises(ValueError, match="needs at least one clip"):
        fit_patch_pca([], 100)
    with pytest.raises(ValueError, match=r"one size, got \(4, 24, 24\) after \(4, 32, 48\)"):
        fit_patch_pca([_clips()[0], _clips()[0][:, :, :24, :24]], 100)
    with pytest.raises(ValueError, match="1 clips have 6 patches for 166 components; give more to fit to"):
        fit_patch_pca(_clips(1), 1000)
    with pytest.raises(ValueError, match="5 values are fewer than the 6 patches of 16 x 16 pixels"):
        fit_patch_pca(_clips(), 5)
    with pytest.raises(ValueError, match="these components are of"):
        fit_patch_pca(_clips(), 18).control(torch.rand(3, 4, 16, 16))
