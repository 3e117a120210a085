"""The convolutional autoencoders of BC-SAM and AE-CFE: sizes, scaling, and what their norms look at."""

from __future__ import annotations

import pytest
import torch
from cellfeat_cae.ae_cfe_network import AeCfeAutoencoder, ElementGroupNorm, scale_maps
from cellfeat_cae.bc_sam_network import BcSamAutoencoder

pytestmark = pytest.mark.usefixtures("one_thread")


def sizes(layers: torch.nn.Sequential, maps: torch.Tensor) -> list[int]:
    """Pixels on a side after every convolution."""
    found = []
    for layer in layers:
        maps = layer(maps)
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            found.append(maps.shape[-1])
    return found


def test_maps_shrink_to_a_code_and_grow_to_an_image():
    with torch.device("meta"):
        bc_sam, ae_cfe = BcSamAutoencoder(), AeCfeAutoencoder()
        assert sizes(bc_sam.encoder, torch.empty(1, 768, 14, 14)) == [14, 6, 6]
        assert sizes(bc_sam.decoder, torch.empty(1, 50, 1, 1)) == [5, 12, 14, 31, 63, 127, 128, 128]
        assert sizes(ae_cfe.encoder, torch.empty(1, 256, 14, 14)) == [12, 5, 3, 2, 1, 1]
        assert sizes(ae_cfe.decoder, torch.empty(1, 50, 1, 1)) == [5, 12, 14]
        assert sizes(ae_cfe.img_decoder, torch.empty(1, 256, 14, 14)) == [31, 63, 127, 128, 128]


@pytest.mark.parametrize("build", [BcSamAutoencoder, AeCfeAutoencoder])
def test_other_channels_and_another_code(build):
    network, maps = build(channels=24, latent=7), torch.rand(2, 24, 14, 14)
    output = network(maps)
    assert output.z.shape == (2, 7)
    assert output.image.shape == (2, 3, 128, 128)
    image = output.image.detach()
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    if build is AeCfeAutoencoder:
        assert output.maps.shape == maps.shape
        assert network.decoder[4].out_channels == network.img_decoder[0].in_channels == 24


def test_what_is_drawn_is_drawn_from_the_code_alone():
    network, maps = BcSamAutoencoder(8, 5).eval(), torch.rand(2, 8, 14, 14)
    image, z = network(maps)
    torch.testing.assert_close(torch.sigmoid(network.decoder(z[:, :, None, None])), image)
    network = AeCfeAutoencoder(8, 5)
    image, restored, z = network(maps)
    torch.testing.assert_close(network.decoder(z[:, :, None, None]), restored)
    torch.testing.assert_close(network.img_decoder(restored), image)


def test_group_norm_cuts_through_channels():
    """Ten channels of 2 x 2 in 8 groups of 5 elements, by hand; torch's own norm refuses such groups."""
    norm, maps = ElementGroupNorm(10, 8).double(), torch.randn(3, 10, 2, 2, dtype=torch.float64)
    norm.gamma.data = torch.arange(1.0, 11.0, dtype=torch.float64).view(1, 10, 1, 1)
    norm.beta.data = torch.arange(10.0, dtype=torch.float64).view(1, 10, 1, 1)
    got, flat = norm(maps), maps.flatten(1)
    for sample in range(3):
        for element in range(40):
            group = flat[sample, element // 5 * 5 : element // 5 * 5 + 5]
            variance = ((group - group.mean()) ** 2).sum() / 4
            value = (flat[sample, element] - group.mean()) / (variance + 1e-5) ** 0.5
            channel = element // 4
            assert got.flatten(1)[sample, element].item() == pytest.approx((value * (channel + 1) + channel).item())


def test_group_norm_keeps_float32_statistics_of_half_precision_maps():
    torch.manual_seed(0)
    maps = (1e-3 * torch.randn(2, 60, 1, 1)).half()
    norm = ElementGroupNorm(60, 20)
    assert norm(maps).dtype == torch.float32
    torch.testing.assert_close(norm(maps), norm(maps.float()))
    assert not norm(torch.zeros(1, 60, 1, 1).half()).any()


def test_group_norm_takes_channels_last():
    norm, maps = ElementGroupNorm(10, 8), torch.randn(2, 10, 2, 2)
    torch.testing.assert_close(norm(maps.contiguous(memory_format=torch.channels_last)), norm(maps))


def test_every_sample_is_scaled_by_itself():
    maps = torch.stack([torch.tensor([0.0, 5.0, 10.0, 2.5]), torch.tensor([-3.0, 1.0, -1.0, 0.0])]).view(2, 2, 2, 1)
    scaled = scale_maps(maps)
    assert scaled.flatten(1).tolist() == [[-1, 0, 1, -0.5], [-1, 1, 0, 0.5]]


def test_a_constant_map_becomes_zero_and_nan_stays():
    maps = torch.rand(4, 3, 2, 2)
    maps[0], maps[1], maps[2, 0, 0, 0] = 0, 7.25, float("nan")
    scaled = scale_maps(maps)
    assert torch.equal(scaled[:2], torch.zeros(2, 3, 2, 2))
    assert scaled[2].isnan().any()
    assert (scaled[3].min(), scaled[3].max()) == (-1, 1)
