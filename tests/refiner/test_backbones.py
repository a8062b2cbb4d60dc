"""Backbones of every family: architectures, encoding and the encoder's features, against diffusers' autoencoders."""

import json

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

from chopgrad_ns.chopgrad import as_causal_decoder
from chopgrad_ns.refiner.backbones import build, load
from chopgrad_ns.refiner.config import RefinerConfig
from tests.refiner.published import KINDS, write_published
from tests.refiner.random_inputs import clip


@pytest.fixture(params=KINDS)
def backbone(request, tmp_path):
    return load(write_published(tmp_path / "model", request.param))


def test_architecture_is_built_again_of_its_config(backbone):
    again = build(json.loads(json.dumps(backbone.config)))
    assert again.config == backbone.config
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (backbone, again)]
    assert shapes[0] == shapes[1]


def test_embedded_architecture_is_a_wan():
    tiny = build(RefinerConfig().backbone)
    assert (tiny.latent_factor, tiny.spatial_factor, tiny.frame_step) == (4, 8, 4)
    assert tiny.encode(clip(tiny, 5)).shape == (1, 8, 2, 2, 4)


def test_encoding_is_the_autoencoders_mode_normalised(backbone):
    backbone.double()
    frames = clip(backbone, backbone.frame_step + 1).double()
    config = backbone.vae.config
    mode = backbone.vae.encode(frames).latent_dist.mode()
    if backbone.family == "wan":
        expected = torch.stack([(mode[:, i] - config.latents_mean[i]) / config.latents_std[i] for i in range(4)], dim=1)
    else:
        expected = mode * config.scaling_factor
    z = backbone.encode(frames)
    torch.testing.assert_close(z, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(backbone.to_decoder(z), mode, atol=1e-12, rtol=1e-12)
    assert (z - mode).abs().max() > 0.01


def test_clips_come_back_as_long_as_they_were(backbone):
    decoder = as_causal_decoder(backbone.vae)
    for k in range(4):
        frames = backbone.frame_step * k + 1
        z = backbone.encode(clip(backbone, frames, 1, 1))
        assert z.shape[2] == (frames - 1) // backbone.temporal_factor + 1 and z.shape[3] * backbone.latent_factor == \
            backbone.spatial_factor
        assert decoder.num_frames(z.shape[2]) == frames
        assert backbone.vae.decode(backbone.to_decoder(z)).sample.shape[2] == frames


def test_other_lengths_and_sizes_are_refused(backbone):
    step, side = backbone.frame_step, backbone.spatial_factor
    for shape in ((step, side, side), (step + 2, side, side), (1, side + side // 2, side), (1, side, side + 1)):
        with pytest.raises(ValueError, match="cannot be encoded"):
            backbone.encode(torch.zeros(1, 3, *shape))


def test_cogvideox_decodes_other_lengths_to_more_frames(tmp_path):
    """Why its clips have 8k + 1 frames and not 4k + 1."""
    vae = load(write_published(tmp_path / "model", "cogvideox-5b")).vae
    z = vae.encode(torch.zeros(1, 3, 5, 16, 16)).latent_dist.mode()
    assert z.shape[2] == 2 and vae.decode(z).sample.shape[2] == 8


def test_features_have_the_shapes_that_are_told(backbone):
    frames, size = 2 * backbone.frame_step + 1, (backbone.spatial_factor, 2 * backbone.spatial_factor)
    z, features = backbone.encode(clip(backbone, frames), features=True)
    assert torch.equal(z, backbone.encode(clip(backbone, frames)))
    told = [(1, channels, (frames - 1) // rate + 1, size[0] // pixels, size[1] // pixels)
            for channels, rate, pixels in backbone.feature_shapes]
    assert [tuple(feature.shape) for feature in features] == told
    assert backbone.feature_shapes[-1][2] == backbone.latent_factor


def test_features_are_the_last_of_each_resolution(backbone):
    """Of one frame, by going through the encoder's modules one after another, two of a kind at each resolution."""
    config = backbone.config
    config["vae"]["num_res_blocks" if backbone.family == "wan" else "layers_per_block"] = 2
    backbone = build(config)
    frame, encoder, expected = clip(backbone, 1), backbone.vae.encoder, []
    with torch.no_grad():
        if backbone.family == "cogvideox":
            x, _ = encoder.conv_in(frame)
            for block in encoder.down_blocks:
                for layer in block.resnets:
                    x, _ = layer(x)
                expected.append(x)
                for layer in block.downsamplers or []:
                    x = layer(x)
        elif backbone.vae.config.is_residual:
            x = encoder.conv_in(patchify(frame, backbone.vae.config.patch_size))
            for block in encoder.down_blocks:  # each adds what it was given, after its downsampler
                inside = x
                for layer in block.resnets:
                    inside = layer(inside)
                x = block(x)
                expected.append(x if block.downsampler is None else inside)
        else:
            x = encoder.conv_in(frame)
            for layer in encoder.down_blocks:
                if type(layer).__name__ == "WanResample":
                    expected.append(x)
                x = layer(x)
            expected.append(x)
        _, features = backbone.encode(frame, features=True)
    assert len(features) == len(expected)
    for feature, value in zip(features, expected):
        torch.testing.assert_close(feature, value, atol=1e-5, rtol=1e-5)


def test_features_and_latents_know_nothing_of_later_chunks(backbone):
    step = backbone.frame_step
    frames = clip(backbone, 2 * step + 1)
    other = torch.cat([frames[:, :, : step + 1], clip(backbone, step, seed=1)], dim=2)
    results = []
    for each in (frames, other, frames[:, :, : step + 1]):
        z, features = backbone.encode(each, features=True)
        results.append([z, *features])
    rates = [backbone.temporal_factor, *(rate for _, rate, _ in backbone.feature_shapes)]
    for rate, first, second, short in zip(rates, *results):
        known = step // rate + 1
        assert short.shape[2] == known
        assert torch.equal(first[:, :, :known], second[:, :, :known])
        torch.testing.assert_close(first[:, :, :known], short, atol=1e-5, rtol=1e-5)
        assert not torch.equal(first[:, :, known:], second[:, :, known:])


def test_an_encoder_is_differentiated_only_where_it_is_trained(backbone):
    frames = clip(backbone, 1)
    backbone.vae.requires_grad_(False)
    z, features = backbone.encode(frames, features=True)
    assert not any(value.requires_grad for value in (z, *features))
    backbone.vae.encoder.conv_in.requires_grad_(True)
    weight = next(backbone.vae.encoder.conv_in.parameters())
    gradients = []
    for encode in (backbone.encode, lambda x: backbone.from_decoder(backbone.vae.encode(x).latent_dist.mode())):
        gradients.append(torch.autograd.grad(encode(frames).square().sum(), weight)[0])
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()
    _, features = backbone.encode(frames, features=True)
    assert all(torch.autograd.grad(feature.square().sum(), weight, retain_graph=True)[0].any() for feature in features)
    with torch.no_grad():
        assert not backbone.encode(frames).requires_grad
