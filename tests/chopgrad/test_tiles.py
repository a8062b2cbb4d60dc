"""Tiles in space against the picture as a whole."""

import pytest
import torch
import torch.nn.functional as F

from chopgrad_ns.chopgrad import CausalDecoder, Exact, Full, SpatialTiles, Truncated, pixel_loss
from chopgrad_ns.chopgrad.tiles import tiles_of
from tests.chopgrad.decoders import curved, decode, difference, example, gradients, looking_back, wan

STRATEGIES = pytest.mark.parametrize("strategy", [Full, Truncated, Exact])


class Near(CausalDecoder):
    """A decoder that sees `radius` latent pixels around each and the group before, and doubles the picture's size."""

    def __init__(self, radius: int):
        generator = torch.Generator().manual_seed(1)
        size = 2 * radius + 1
        self.radius = radius
        self.kernel, self.memory = (torch.randn(3, 3, 1, size, size, generator=generator, dtype=torch.float64).requires_grad_()
                                    for _ in range(2))

    def groups(self, num_latent_frames):
        return [slice(i, i + 1) for i in range(num_latent_frames)]

    def frames_of(self, group):
        return group

    def initial_state(self):
        return None

    def parameters(self):
        yield from (self.kernel, self.memory)

    def decode_group(self, latents, state, side=None):
        padding = (0, self.radius, self.radius)
        x = F.conv3d(latents, self.kernel, padding=padding)
        if state is not None:  # of the latents: what has been filtered once would be seen from twice as far
            x = x + F.conv3d(state, self.memory, padding=padding)
        x = torch.tanh(x).repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
        if side:
            x = x * side["gain"] + side["coarse"].repeat_interleave(4, dim=3).repeat_interleave(4, dim=4)
        return x, latents


def near(radius: int, height: int = 8, width: int = 12, side: bool = True):
    decoder, generator = Near(radius), torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    latents = draw(2, 3, 3, height, width).requires_grad_()
    target = draw(2, 3, 3, 2 * height, 2 * width).clamp(-1, 1)
    sides = [{"gain": draw(2, 3, 1, 2 * height, 2 * width).requires_grad_(),
              "coarse": draw(2, 3, 1, height // 2, width // 2).requires_grad_()} for _ in range(3)] if side else None
    return decoder, latents, target, sides


@STRATEGIES
@pytest.mark.parametrize("tiles", [SpatialTiles(9, 12, 0), SpatialTiles(3, 99, 3)], ids=str)
def test_one_tile_is_the_whole(strategy, tiles):
    example_ = example(wan(), size=3)
    loss, expected = gradients(example_, looking_back(1), strategy())
    found_loss, found = gradients(example_, looking_back(1), strategy(tiles=tiles))
    assert found_loss == loss and difference(found, expected) <= 1e-12


@STRATEGIES
@pytest.mark.parametrize("radius, halo", [(0, 0), (1, 2), (2, 2)])
def test_a_halo_of_the_decoders_reach_gives_the_whole_gradient(strategy, radius, halo):
    example_ = near(radius)
    loss, expected = gradients(example_, looking_back(2), strategy())
    found_loss, found = gradients(example_, looking_back(2), strategy(tiles=SpatialTiles(4, 4, halo)))
    assert abs(found_loss - loss) <= 1e-12 * abs(loss) and difference(found, expected) <= 1e-9
    assert len(expected) == 1 + 6 + 2


def test_a_smaller_halo_does_not():
    example_ = near(2, side=False)
    _, expected = gradients(example_, curved, Exact())
    errors = [difference(gradients(example_, curved, Exact(tiles=SpatialTiles(4, 4, halo)))[1], expected) for halo in (0, 1, 2)]
    assert errors[0] > errors[1] > 1e-3 and errors[2] < 1e-9


def test_wan_comes_nearer_to_the_whole_with_the_halo():
    vae = wan()
    vae.decoder.mid_block.attentions[0] = None  # diffusers leaves it out then
    example_ = example(vae, 2, size=12, side=False)
    _, expected = gradients(example_, curved, Full())
    errors = [float((gradients(example_, curved, Exact(tiles=SpatialTiles(12, 6, halo)))[1]["latents"]
                     - expected["latents"]).norm() / expected["latents"].norm()) for halo in (0, 2, 4, 6)]
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] and errors[3] < 1e-9, "at last each tile reads all"


def test_tiles_with_checkpointed_blocks():
    example_ = example(wan(), size=3, side=False)
    tiles = SpatialTiles(3, 2, 1)
    _, expected = gradients(example_, curved, Full(tiles=tiles))
    _, found = gradients(example_, curved, Exact(checkpoint_blocks=True, tiles=tiles))
    assert difference(found, expected) <= 1e-9


def test_wan_with_attention_differs():
    example_ = example(wan(), 2, size=6, side=False)
    loss, expected = gradients(example_, curved, Full())
    found_loss, found = gradients(example_, curved, Exact(tiles=SpatialTiles(6, 3, 2)))
    assert 0 < abs(found_loss - loss) < 0.2 * abs(loss)
    assert 1e-6 < difference(found, expected) < 10


def test_tiles_cover_the_picture_once_and_evenly():
    tiles = tiles_of(9, 7, SpatialTiles(4, 4, 2))
    seen = torch.zeros(9, 7)
    for tile in tiles:
        seen[tile.own] += 1
        assert all(read.start == max(own.start - 2, 0) for own, read in zip(tile.own, tile.read))
    assert (seen == 1).all() and len(tiles) == 6
    assert {own.stop - own.start for tile in tiles for own in tile.own} == {3, 4}
    assert {read.stop for tile in tiles for read in tile.read[:1]} == {5, 8, 9}


@STRATEGIES
def test_only_what_requires_grad(strategy):
    decoder, latents, target, side = near(1)
    latents.requires_grad_(False)
    side[0]["gain"].requires_grad_(False)
    decoder.kernel.requires_grad_(False)
    _, expected = gradients((decoder, latents, target, side), curved, strategy())
    _, found = gradients((decoder, latents, target, side), curved, strategy(tiles=SpatialTiles(4, 4, 2)))
    assert difference(found, expected) <= 1e-9 and len(expected) == 5 + 1


def test_targets_by_the_slice_and_evaluation_alone():
    decoder, latents, target, side = near(1)
    strategy = Exact(tiles=SpatialTiles(4, 6, 2))
    loss = pixel_loss(latents, lambda span: target[:, :, span], decoder, curved, strategy, side=side)
    assert loss.requires_grad
    with torch.no_grad():
        alone = pixel_loss(latents, target, decoder, curved, strategy, side=side)
    assert not alone.requires_grad
    assert torch.allclose(alone, curved(decode(decoder, latents, side), target).mean(), rtol=1e-12)
    assert torch.allclose(loss, alone, rtol=1e-12)


def test_what_cannot_be_cut_is_refused():
    decoder, latents, target, side = near(0)
    with pytest.raises(ValueError, match=r"tile of latent rows 2…4, columns 0…11: the side tensor for coarse has shape"):
        pixel_loss(latents, target, decoder, curved, Exact(tiles=SpatialTiles(3, 12, 0)), side=side)
    bad = lambda span: target[:, :, span] + 9 * (span.start == 1)  # noqa: E731
    with pytest.raises(ValueError, match="tile of latent rows 0…3, columns 0…11: group 1, frames 1…1: the target reaches"):
        pixel_loss(latents, bad, decoder, curved, Exact(tiles=SpatialTiles(4, 12, 0)), side=side)
    assert latents.grad is None and decoder.kernel.grad is None


@pytest.mark.parametrize("sizes", [(0, 4, 1), (4, 0, 1), (4, 4, -1)])
def test_sizes_that_are_none(sizes):
    with pytest.raises(ValueError, match="give sizes of 1 or more"):
        SpatialTiles(*sizes)
