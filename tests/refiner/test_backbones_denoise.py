"""One step of backbones of every family against diffusers' pipelines and schedulers, and what conditions it."""

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline, FlowMatchEulerDiscreteScheduler, WanPipeline
from peft import LoraConfig

from chopgrad_ns.refiner.backbones import build, load
from tests.refiner.published import KINDS, TEXT_DIM, write_published
from tests.refiner.random_inputs import clip, latents, noise, prompt

WAN = tuple(kind for kind in KINDS if kind.startswith("wan"))
COG = tuple(kind for kind in KINDS if not kind.startswith("wan"))


@pytest.fixture(params=KINDS)
def backbone(request, tmp_path):
    return load(write_published(tmp_path / "model", request.param))


@pytest.mark.parametrize("kind", WAN)
def test_wan_pipelines_last_step(kind, tmp_path):
    """At σ = 1 the pipeline's only step goes all the way; Wan2.2's 5B is given a timestep for every token there."""
    backbone = load(write_published(tmp_path / "model", kind), timestep=999)
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
def test_wan_steps_as_its_scheduler_does(kind, tmp_path):
    backbone = load(write_published(tmp_path / "model", kind))
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
def test_cogvideox_pipelines_last_step(kind, frames, tmp_path):
    """With one step the pipeline starts at 999 and goes all the way; its latents are completed by hand here."""
    folder = write_published(tmp_path / "model", kind)
    backbone = load(folder)
    scheduler = CogVideoXPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None).scheduler
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
def test_cogvideox_steps_as_its_schedulers_do(kind, tmp_path):
    """DOVE takes x0 from `get_velocity`, with what the transformer gave in the place of the sample."""
    folder = write_published(tmp_path / "model", kind)
    backbone = load(folder).double()
    z, embedding = latents(backbone, 4).double(), prompt(backbone).double()
    scheduler = CogVideoXDPMScheduler.from_pretrained(folder / "scheduler")
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
def test_positions_are_the_pipelines(kind, tmp_path):
    backbone = load(write_published(tmp_path / "model", kind))
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


def test_missing_tokens_of_cogvideox_are_zeros(tmp_path):
    backbone = load(write_published(tmp_path / "model", "cogvideox-2b"))
    z, some = latents(backbone), prompt(backbone)[:, :2]
    full = torch.cat([some, torch.zeros(1, backbone.prompt_shape[0] - 2, TEXT_DIM)], dim=1)
    with torch.no_grad():
        assert torch.equal(backbone.denoise(z, 399, some), backbone.denoise(z, 399, full))
        assert not torch.equal(backbone.denoise(z, 399, some), backbone.denoise(z, 399, prompt(backbone)))


def test_offset_embedding_is_given_where_there_is_one(tmp_path):
    config = load(write_published(tmp_path / "model", "cogvideox1.5")).config
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
def test_half_the_bits(kind, tmp_path):
    """Weights of 16 bits: tensors come back in the precision they were given in, near those of full precision."""
    folder = write_published(tmp_path / "model", kind)
    exact, half = load(folder), load(folder, dtype=torch.bfloat16)
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
