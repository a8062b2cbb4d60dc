"""Backbones of every family against diffusers' own pipelines, schedulers and autoencoders."""

import json

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline, FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from peft import LoraConfig

from chopgrad_ns.chopgrad import as_causal_decoder
from chopgrad_ns.refiner.backbones import build, load
from chopgrad_ns.refiner.config import RefinerConfig
from tests.refiner.published import KINDS, TEXT_DIM, write_published

WAN = tuple(kind for kind in KINDS if kind.startswith("wan"))
COG = tuple(kind for kind in KINDS if not kind.startswith("wan"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a kind, written once; DOVE's embeddings lie beside it."""
    root, written = tmp_path_factory.mktemp("published"), {}

    def of(kind):
        if kind not in written:
            written[kind] = write_published(root / kind / "model", kind)
        return written[kind]

    return of


@pytest.fixture(params=KINDS)
def backbone(request, folder):
    return load(folder(request.param))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(backbone, frames, height=1, width=2, seed=0):
    """Random frames in −1…1; height and width in tokens."""
    generator = torch.Generator().manual_seed(seed)
    size = (height * backbone.spatial_factor, width * backbone.spatial_factor)
    return 2 * torch.rand(1, 3, frames, *size, generator=generator) - 1


def latents(backbone, frames=3, height=4, width=6, seed=0):
    config = backbone.transformer.config
    return noise(1, config.in_channels, frames, height, width, seed=seed)


def prompt(backbone, seed=1):
    return noise(1, *backbone.prompt_shape, seed=seed)


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


def test_cogvideox_decodes_other_lengths_to_more_frames(folder):
    """Why its clips have 8k + 1 frames and not 4k + 1."""
    vae = load(folder("cogvideox-5b")).vae
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


@pytest.mark.parametrize("kind", WAN)
def test_wan_pipelines_last_step(kind, folder):
    """At σ = 1 the pipeline's only step goes all the way; Wan2.2's 5B is given a timestep for every token there."""
    backbone = load(folder(kind), timestep=999)
    pipeline = WanPipeline(None, None, backbone.vae, FlowMatchEulerDiscreteScheduler(), backbone.transformer,
                           expand_timesteps=kind == "wan2.2-5b")
    pipeline.set_progress_bar_config(disable=True)
    z, embedding = latents(backbone), prompt(backbone)
    size = {"height": 4 * backbone.latent_factor, "width": 6 * backbone.latent_factor, "num_frames": 9}
    expected = pipeline(prompt_embeds=embedding, latents=z, num_inference_steps=1, guidance_scale=1.0, output_type="latent",
                        **size).frames
    with torch.no_grad():
        torch.testing.assert_close(backbone.denoise(z, 1000, embedding), expected, atol=1e-5, rtol=1e-5)
    assert (expected - z).abs().mean() > 0.1


@pytest.mark.parametrize("kind", WAN)
def test_wan_steps_as_its_scheduler_does(kind, folder):
    backbone = load(folder(kind))
    z, embedding = latents(backbone), prompt(backbone)
    with torch.no_grad():
        velocity = backbone.transformer(z, torch.tensor([250]), embedding).sample
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=[0.25])
        assert scheduler.timesteps.tolist() == [250]
        expected = scheduler.step(velocity, scheduler.timesteps[0], z).prev_sample
        torch.testing.assert_close(backbone.denoise(z, backbone.default_timestep, embedding), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("frames", (3, 4))
@pytest.mark.parametrize("kind", COG)
def test_cogvideox_pipelines_last_step(kind, frames, folder):
    """With one step the pipeline starts at 999 and goes all the way; its latents are completed by hand here."""
    backbone = load(folder(kind))
    scheduler = CogVideoXPipeline.from_pretrained(folder(kind), text_encoder=None, tokenizer=None).scheduler
    pipeline = CogVideoXPipeline(None, None, backbone.vae, backbone.transformer, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    z, embedding = latents(backbone, frames), prompt(backbone)
    missing = frames % 2 if backbone.patch_size[0] == 2 else 0
    whole = torch.cat([z[:, :, :1]] * missing + [z], dim=2).transpose(1, 2)
    size = {"height": 4 * backbone.latent_factor, "width": 6 * backbone.latent_factor, "num_frames": 4 * frames - 3}
    expected = pipeline(prompt_embeds=embedding, latents=whole, num_inference_steps=1, guidance_scale=1.0,
                        output_type="latent", **size).frames.transpose(1, 2)[:, :, missing:]
    with torch.no_grad():
        torch.testing.assert_close(backbone.denoise(z, 999, embedding), expected, atol=1e-4, rtol=1e-4)
    assert (expected - z).abs().mean() > 0.1


@pytest.mark.parametrize("kind", COG)
def test_cogvideox_steps_as_its_schedulers_do(kind, folder):
    """DOVE takes x0 from `get_velocity`, with what the transformer gave in the place of the sample."""
    backbone = load(folder(kind)).double()
    z, embedding = latents(backbone, 4).double(), prompt(backbone).double()
    scheduler = CogVideoXDPMScheduler.from_pretrained(folder(kind) / "scheduler")
    step = torch.tensor([backbone.default_timestep])
    given = {}
    if backbone.transformer.config.use_rotary_positional_embeddings:
        given["image_rotary_emb"] = backbone._rotary(4, 4, 6, z.device)
    with torch.no_grad():
        v = backbone.transformer(z.transpose(1, 2), embedding, step, **given).sample.transpose(1, 2)
        expected = scheduler.get_velocity(v, z, step)
        torch.testing.assert_close(backbone.denoise(z, 399, embedding), expected, atol=1e-9, rtol=1e-9)
        assert (backbone.denoise(z, 200, embedding) - expected).abs().mean() > 0.01


@pytest.mark.parametrize("kind", ("cogvideox-5b", "cogvideox1.5"))
def test_positions_are_the_pipelines(kind, folder):
    backbone = load(folder(kind))
    pipeline = CogVideoXPipeline(None, None, backbone.vae, backbone.transformer, None)
    sizes = [(2, 2), (4, 6), (2, 6), (4, 2)]
    if kind == "cogvideox-5b":  # which fits other sizes into the usual one
        sizes += [(6, 10), (14, 4), (2, 18), (10, 10)]
    for height, width in sizes:
        for frames in (2, 4, 6):
            pixels = (height * backbone.latent_factor, width * backbone.latent_factor)
            expected = pipeline._prepare_rotary_positional_embeddings(*pixels, frames, torch.device("cpu"))
            for ours, theirs in zip(backbone._rotary(frames, height, width, torch.device("cpu")), expected):
                assert torch.equal(ours, theirs)


def test_pictures_of_other_than_the_usual_size(backbone):
    """CogVideoX1.5's positions go on beyond it; sines are made anew for it."""
    for height, width in ((2, 2), (10, 4), (8, 14)):
        z = latents(backbone, 1, height, width)
        with torch.no_grad():
            clean = backbone.denoise(z, backbone.default_timestep, prompt(backbone))
        assert clean.shape == z.shape and clean.isfinite().all()


def test_missing_tokens_of_cogvideox_are_zeros(folder):
    backbone = load(folder("cogvideox-2b"))
    z, some = latents(backbone), prompt(backbone)[:, :2]
    full = torch.cat([some, torch.zeros(1, backbone.prompt_shape[0] - 2, TEXT_DIM)], dim=1)
    with torch.no_grad():
        assert torch.equal(backbone.denoise(z, 399, some), backbone.denoise(z, 399, full))
        assert not torch.equal(backbone.denoise(z, 399, some), backbone.denoise(z, 399, prompt(backbone)))


def test_offset_embedding_is_given_where_there_is_one(folder):
    config = json.loads(json.dumps(load(folder("cogvideox1.5")).config))
    config["transformer"]["ofs_embed_dim"] = 16
    backbone = build(config).eval()
    z, embedding = latents(backbone, 2), prompt(backbone)
    with torch.no_grad():
        clean = backbone.denoise(z, 399, embedding)
        backbone.transformer.ofs_embedding.linear_2.bias += 1
        assert clean.isfinite().all() and not torch.equal(clean, backbone.denoise(z, 399, embedding))


def test_an_untrained_condition_changes_nothing_and_can_learn(backbone):
    z, embedding, step = latents(backbone), prompt(backbone), backbone.default_timestep
    without = backbone.denoise(z, step, embedding)
    names = set(backbone.state_dict())
    with pytest.raises(ValueError, match="condition_on"):
        backbone.denoise(z, step, embedding, noise(1, 5, 3, 4, 6))
    backbone.condition_on(5)
    assert {name for name in backbone.state_dict() if name not in names} == {"condition_embed.weight", "condition_embed.bias"}
    conditioned = backbone.denoise(z, step, embedding, noise(1, 5, 3, 4, 6))
    torch.testing.assert_close(conditioned, without, atol=1e-6, rtol=0)
    conditioned.square().sum().backward()
    assert all(parameter.grad.any() for parameter in backbone.condition_embed.parameters())


def test_a_condition_lands_on_the_tokens_of_its_place(backbone):
    """Embedded by the weights that embed latents, the latents again are a condition that doubles them."""
    z, embedding, step = latents(backbone), prompt(backbone), backbone.default_timestep
    backbone.condition_on(4)
    patch_embed = backbone._patch_embed()
    weight = (patch_embed if backbone.family == "wan" else patch_embed.proj).weight
    with torch.no_grad():
        backbone.condition_embed.weight.copy_(weight.view_as(backbone.condition_embed.weight))
        # The steps are linear in z and in what the transformer puts out, which is what must agree.
        doubled = backbone.denoise(2 * z, step, embedding) - backbone._clean(2 * z, torch.zeros_like(z), step)
        conditioned = backbone.denoise(z, step, embedding, z) - backbone._clean(z, torch.zeros_like(z), step)
        torch.testing.assert_close(conditioned, doubled, atol=1e-5, rtol=1e-5)
        alone = backbone.denoise(z, step, embedding) - backbone._clean(z, torch.zeros_like(z), step)
        assert (alone - doubled).abs().mean() > 1e-3


def test_gradient_checkpointing_changes_no_gradient(backbone):
    z, embedding, condition = latents(backbone), prompt(backbone), noise(1, 5, 3, 4, 6, seed=2)
    backbone.condition_on(5)
    with torch.no_grad():
        backbone.condition_embed.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            backbone.transformer.enable_gradient_checkpointing()
        backbone.zero_grad()
        backbone.denoise(z, backbone.default_timestep, embedding, condition).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in backbone.named_parameters()
                          if parameter.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and "condition_embed.weight" in gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_half_the_bits(kind, folder):
    """Weights of 16 bits: tensors come back in the precision they were given in, near those of full precision."""
    exact, half = load(folder(kind)), load(folder(kind), dtype=torch.bfloat16)
    assert half.transformer.dtype == half.vae.dtype == torch.bfloat16
    half.condition_on(4)
    frames, results = clip(exact, 9), []
    with torch.no_grad():
        for backbone in (exact, half):
            z = backbone.encode(frames)
            condition = noise(1, 4, *z.shape[2:]) if backbone is half else None
            results.append((z, backbone.denoise(z, backbone.default_timestep, prompt(backbone), condition)))
            assert all(value.dtype == torch.float32 for value in results[-1])
    assert half.to_decoder(z).dtype == torch.bfloat16
    for full, rough in zip(*results):
        assert 0 < (full - rough).norm() < 0.05 * full.norm()


def test_low_rank_updates_beside_frozen_weights_of_16_bits(backbone):
    """What is trained has 32 bits, as mixed precision has it; a graph goes to it through checkpointed blocks."""
    backbone.to(torch.bfloat16).requires_grad_(False)
    backbone.condition_on(3)
    backbone.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    backbone.transformer.enable_gradient_checkpointing()
    for autocast in (False, True):
        backbone.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            clean = backbone.denoise(latents(backbone), backbone.default_timestep, prompt(backbone), noise(1, 3, 3, 4, 6))
        clean.square().mean().backward()
        assert clean.dtype == torch.float32
        trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
        assert all(parameter.grad.any() for parameter in trained.values()), [n for n, p in trained.items() if not p.grad.any()]
        assert {name.split(".")[-3] for name in trained if "lora" in name} == {"lora_A", "lora_B"}
