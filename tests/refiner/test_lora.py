"""Low-rank changes: nothing at first, what they add when merged, and gradients by the plain formula."""

from dataclasses import replace

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel
from torch.nn.utils import parametrize

from chopgrad_ns.chopgrad import Exact, Full, Truncated, as_causal_decoder, pixel_loss
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune.lora import LowRank, add_lora, has_lora, is_lora, merge_lora
from chopgrad_ns.refiner.finetune.parts import part_of
from chopgrad_ns.refiner.finetune.run import Run
from tests.refiner.clips import pair, stir

BOTH = {"transformer": {"rank": 2, "alpha": 4.0}, "decoder": {"rank": 2, "alpha": 4.0}}
QUICK = FinetuneSettings(steps=3, lr=1e-2, buckets="5x16x16", losses="l1=1", rank=2, alpha=4.0, transformer="lora",
                         decoder="lora", encoder="frozen", ema=0)


def stirred() -> Refiner:
    refiner = Refiner(RefinerConfig())
    stir(refiner.model)
    return refiner


@pytest.fixture(scope="module")
def trained() -> Refiner:
    refiner = stirred()
    finetune(refiner, [pair()], QUICK)
    return refiner


@torch.no_grad()
def refined(refiner: Refiner) -> torch.Tensor:
    return refiner(pair(frames=5, seed=4).degraded)


def test_at_first_nothing_changes():
    refiner = stirred()
    before = refined(refiner)
    add_lora(refiner.model, BOTH)
    # Not by the bit: weights of 1×1 convolutions lose their memory layout, and sums are rounded otherwise.
    assert torch.allclose(refined(refiner), before, atol=2e-6, rtol=0)
    names = [name for name, _ in refiner.model.named_parameters() if is_lora(name)]
    blocks = {name.split(".lora_")[0] for name in names if "transformer" in name}
    assert len(blocks) == 2 * (2 * 4 + 2), "two blocks: two attentions of four layers, and two of the feed-forward"
    decoder = refiner.model.backbone.vae.decoder
    convolutions = [layer for layer in decoder.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d))]
    assert all(parametrize.is_parametrized(layer, "weight") for layer in convolutions)


def test_it_is_drawn_alike_whatever_was_drawn_before():
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        refiner = stirred()
        state = torch.get_rng_state()
        add_lora(refiner.model, BOTH)
        assert torch.equal(torch.get_rng_state(), state)
        made.append({name: value for name, value in refiner.model.named_parameters() if is_lora(name)})
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_only_low_rank_changes_and_conditioning_learn(trained):
    before = stirred()
    add_lora(before.model, BOTH)
    places, after = part_of(trained.model), dict(trained.model.named_parameters())
    moved = {(places[name], is_lora(name)) for name, value in before.model.named_parameters()
             if not torch.equal(value, after[name])}
    assert moved == {("transformer", True), ("decoder", True), ("conditioning", False), ("head", False)}
    assert trained.config.lora == BOTH
    assert all(any(is_lora(name) for name in trained.trained if part in name) for part in ("transformer", "decoder"))


def test_a_low_rank_weight_is_the_plain_sum():
    weight = torch.randn(6, 4, 3, 3, 3)
    change = LowRank(weight, 2, 8.0)
    with torch.no_grad():
        change.lora_B.normal_()
    expected = weight + 4 * torch.einsum("or,ri->oi", change.lora_B, change.lora_A).reshape(weight.shape)
    torch.testing.assert_close(change(weight), expected)


@pytest.mark.parametrize("strategy", [Exact(), Exact(checkpoint_blocks=True), Truncated(9)])
def test_gradients_through_the_groups_are_those_of_the_whole_decode(strategy):
    """In float64, for each low-rank matrix of the decoder."""
    model = stirred().model
    add_lora(model, {"decoder": BOTH["decoder"]})
    stir(model)
    vae = model.backbone.vae.double()
    wanted = [value for name, value in vae.decoder.named_parameters() if is_lora(name)]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 8, 3, 3, 4, generator=generator, dtype=torch.float64)
    target = torch.rand(1, 8, 9, 12, 16, generator=generator, dtype=torch.float64)

    def square(prediction, target):
        return (prediction - target).square().mean(dim=(1, 3, 4))

    whole = square(decoded(vae, latents), target).mean()
    expected = torch.autograd.grad(whole, wanted)
    for way in (strategy, Full()):
        found = torch.autograd.grad(pixel_loss(latents, target, vae, square, way), wanted)
        assert max(float((one - two).norm() / two.norm()) for one, two in zip(found, expected)) < 1e-6


def decoded(vae, latents):
    """All frames in one graph, by plain autograd."""
    decoder = as_causal_decoder(vae)
    state, parts = decoder.initial_state(), []
    for group in decoder.groups(latents.shape[2]):
        frames, state = decoder.decode_group(latents[:, :, group], state)
        parts.append(frames)
    return torch.cat(parts, dim=2)


def test_merged_is_the_same(trained, tmp_path):
    trained.save(tmp_path)
    refiner = Refiner.from_pretrained(tmp_path)
    before = refined(refiner)
    assert not torch.allclose(before, refined(stirred()), atol=1e-3), "it learnt something"
    for place in BOTH:
        merge_lora(refiner.model, place)
        assert not has_lora(refiner.model, place)
        torch.testing.assert_close(refined(refiner), before, atol=1e-5, rtol=0)
    assert set(refiner.model.state_dict()) == set(stirred().model.state_dict())


def test_saved_and_loaded_as_safetensors(trained, tmp_path):
    trained.save(tmp_path)
    again = Refiner.from_pretrained(tmp_path)
    assert again.config.lora == BOTH and torch.allclose(refined(again), refined(trained), atol=2e-6, rtol=0)
    there = trained.model.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in again.model.state_dict().items())


def test_training_goes_on_from_low_rank_changes_or_merges_them(trained, tmp_path):
    trained.save(tmp_path)
    again = Refiner.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="has LoRA of rank 2 and alpha 4; train it with the same"):
        finetune(Refiner.from_pretrained(tmp_path), [pair()], replace(QUICK, rank=3))
    finetune(again, [pair()], replace(QUICK, transformer=None, decoder="full", steps=1))
    assert again.config.lora == {"transformer": BOTH["transformer"], "decoder": None}
    assert has_lora(again.model, "transformer") and not has_lora(again.model, "decoder")
    again.save(tmp_path / "merged")
    assert torch.allclose(refined(Refiner.from_pretrained(tmp_path / "merged")), refined(again), atol=2e-6, rtol=0)


def test_names_are_those_of_diffusers(trained, tmp_path):
    """What diffusers writes of the transformer goes into a plain transformer of its own, and gives the same."""
    transformer = trained.model.backbone.transformer
    transformer.save_lora_adapter(tmp_path)
    plain = WanTransformer3DModel.from_config(transformer.config)
    base = {name.replace(".base_layer", ""): value for name, value in transformer.state_dict().items() if not is_lora(name)}
    plain.load_state_dict(base)
    given = torch.randn(1, 8, 2, 4, 4), torch.tensor([250]), torch.zeros(1, 1, 16)
    with torch.no_grad():
        expected = transformer(*given).sample
        assert not torch.allclose(plain(*given).sample, expected, atol=1e-4)
        plain.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
        torch.testing.assert_close(plain(*given).sample, expected, atol=1e-6, rtol=0)


def test_layers_are_found_in_cogvideox():
    model = torch.nn.Module()
    model.backbone = torch.nn.Module()
    model.backbone.transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=4, text_embed_dim=8,
        num_layers=1, sample_width=4, sample_height=4, sample_frames=5, max_text_seq_length=4)
    add_lora(model, {"transformer": {"rank": 2, "alpha": 2}})
    found = {name.split(".lora_")[0] for name, _ in model.named_parameters() if is_lora(name)}
    assert {name.split("transformer_blocks.0.")[1] for name in found} == {
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"}


def test_a_training_that_never_began_leaves_none():
    refiner = stirred()
    before = {name: value.clone() for name, value in refiner.model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), Run(refiner, [pair()], QUICK, Exact()):
        assert has_lora(refiner.model, "transformer") and has_lora(refiner.model, "decoder")
        raise ZeroDivisionError
    after = refiner.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(refiner.config.lora.values())
    assert all(value.requires_grad for value in refiner.model.parameters())


def test_refusals():
    refiner = stirred()
    with pytest.raises(UserError, match="The rank of LoRA is 0"):
        add_lora(refiner.model, {"transformer": {"rank": 0, "alpha": 1}})
    with pytest.raises(UserError, match="no LoRA of 'encoder'"):
        add_lora(refiner.model, {"encoder": {"rank": 1, "alpha": 1}})
    add_lora(refiner.model, BOTH)
    with pytest.raises(UserError, match="has LoRA already"):
        add_lora(refiner.model, {"decoder": BOTH["decoder"]})
