"""The parts of comparisons against what is written out plainly."""

import pytest
import torch
from comparing.autoencoder import decoded, refiner_around
from comparing.gradients import Measured, cosine_and_ratio
from comparing.halved import doubled, halved
from comparing.methods import SHORT, one_by_one, short_and_low
from comparing.sampling import Sampler
from comparing.scenes import view_distances
from comparing.training import train

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.baselines import enlarged
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.model import collate
from tests.refiner.clips import pair, stir, task_pair
from tests.worlds import plane_cameras


def test_half_the_resolution():
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.rand(3, *channels, 5, 7, generator=generator).double() for name, channels in
              {"frames": (3,), "alpha": (1,), "depth": (1,), "references": (2, 3), "reference_masks": (2, 1)}.items()}
    values["reference_masks"][:, 1, :, :2, :2] = 0
    found = halved(Clip(**values))
    assert found.frames.shape == (3, 3, 3, 4), "the last row and column have no others to be joined with"
    for t, y, x in ((0, 0, 0), (2, 1, 2), (1, 0, 0), (1, 2, 3), (0, 2, 1)):
        rows, columns = slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2)
        torch.testing.assert_close(found.frames[t, :, y, x], values["frames"][t, :, rows, columns].mean(dim=(1, 2)))
        assert found.depth[t, 0, y, x] in values["depth"][t, 0, rows, columns]
        for k in range(2):
            mask, photo = values["reference_masks"][t, k, :, rows, columns], values["references"][t, k, :, rows, columns]
            seen = (mask * photo).sum(dim=(1, 2)) / mask.sum() if mask.any() else torch.zeros(3).double()
            torch.testing.assert_close(found.reference_masks[t, k, 0, y, x], mask.mean())
            torch.testing.assert_close(found.references[t, k, :, y, x], seen)


def test_how_methods_are_run():
    refiner, clip = Refiner(RefinerConfig()), pair(frames=15).degraded
    stir(refiner.model)
    with torch.no_grad():
        alone = one_by_one(refiner, clip)
        assert torch.equal(alone[3], refiner(clip[3:4])[0]) and not torch.allclose(alone[3], refiner(clip)[3], atol=1e-4)
        short = short_and_low(refiner, clip)
        low = halved(clip)
        parts = torch.cat([refiner(low[:SHORT]), refiner(low[SHORT:])])
    torch.testing.assert_close(short, enlarged(parts, (32, 32)))


def test_what_is_halved_and_doubled_is_where_it_was():
    """Of an odd size too: half a pixel aside would cost a picture with edges some decibels."""
    y, x = torch.meshgrid(torch.arange(33) / 48, torch.arange(47) / 48, indexing="ij")
    ramps = torch.stack([x, y, x])[None]
    found = doubled(halved(Clip(ramps)).frames, (33, 47))
    assert found.shape == ramps.shape and (found - ramps)[..., 4:-4, 4:-4].abs().max() < 1e-4


def test_distances_of_views():
    cameras = plane_cameras(5)
    expected = []
    for one in cameras.centers.double():
        each = [float((one - two).norm()) for two in cameras.centers[::4].double()]
        expected.append(min(each) / float((cameras.centers[0] - cameras.centers[4]).norm()))
    assert view_distances(cameras, cameras[[0, 4]]) == pytest.approx(expected)


def test_cosine_and_length():
    one = Measured([torch.tensor([1.0, 0]), torch.tensor([0.0, 2])], 0)
    two = Measured([torch.tensor([1.0, 1]), torch.tensor([0.0, 1])], 0)
    assert cosine_and_ratio(one, two) == pytest.approx(((2**-0.5 + 1) / 2, (2**-0.5 + 2) / 2))


def test_an_interrupted_training_ends_as_if_it_was_not(tmp_path):
    settings = FinetuneSettings(steps=120, ema=0.9)

    def run(folder, stop_at=None, recipe="one") -> tuple[torch.Tensor, list[int]]:
        value, steps = torch.nn.Parameter(torch.zeros(3)), []

        def loss_of(step):
            if step == stop_at:
                raise KeyboardInterrupt
            steps.append(step)
            return (value - torch.tensor([1.0, 2, 3]) - 0.1 * torch.randn(3)).square().sum()

        train({"value": value}, loss_of, settings, 0.1, tmp_path / folder, {"is": recipe}, lambda *_: None)
        return value.detach(), steps

    whole, _ = run("whole")
    assert (whole - torch.tensor([1.0, 2, 3])).abs().max() < 0.2
    with pytest.raises(KeyboardInterrupt):
        run("parts", stop_at=70)
    again, steps = run("parts")
    assert steps == list(range(50, 120)) and torch.equal(again, whole)
    third, steps = run("parts")
    assert steps == [] and torch.equal(third, whole)
    with pytest.raises(UserError, match="was begun with other settings"):
        run("parts", recipe="two")


@pytest.fixture(scope="module")
def sampler():
    refiner = Refiner(RefinerConfig(output="decode"))
    stir(refiner.model.backbone.vae, 0.05)
    vae = refiner.model.backbone.vae
    vae.register_to_config(latents_mean=[0.1] * 8, latents_std=[0.5] * 8)
    made = Sampler(vae)
    stir(made.model, 0.05)
    made.model.backbone.vae.load_state_dict(vae.state_dict())
    return made


def velocity(sampler, z, timestep, condition):
    """What the transformer puts out, by σ·v = z − z₀."""
    found = sampler.backbone.denoise(z, timestep, sampler.model.prompt[None], condition)
    return (z - found) / (timestep / 1000)


def test_sampling_is_eulers_method(sampler):
    clip = task_pair("inpainting", 5, 16, 16).degraded
    prepared = sampler.refiner.task.prepare(clip)
    batch = collate([prepared], sampler.refiner.config, sampler.backbone)
    with torch.no_grad():
        condition = sampler.condition(batch)
        z = torch.randn(1, 8, 2, 4, 4, generator=torch.Generator().manual_seed(3))
        for now, after in ((1000, 667), (667, 333), (333, 0)):
            z = z + (after - now) / 1000 * velocity(sampler, z, now, condition)
        frames = decoded(sampler.vae, z * 0.5 + 0.1)[0].transpose(0, 1) / 2 + 0.5
    expected = torch.where(clip.mask > 0, frames.clamp(0, 1), clip.frames)
    found = sampler.sample(clip, 3, seed=3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(found, sampler.sample(clip, 1, seed=3), atol=1e-3)
    other = sampler.refiner.task.prepare(Clip(clip.frames, mask=clip.mask.flip(-1)))
    beside = sampler.condition(collate([other], sampler.refiner.config, sampler.backbone))
    assert not torch.allclose(condition, beside, atol=1e-3)


def test_flow_matching_learns_the_velocity(sampler):
    channels = sampler.backbone.condition_embed.in_channels
    condition = torch.randn(2, channels, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    clean = torch.randn(2, 8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    found = sampler.velocity_loss(clean, condition)
    torch.manual_seed(5)
    losses = []
    for k in range(2):
        timestep, noise = int(torch.randint(1, 1001, ())), torch.randn(1, 8, 2, 4, 4)
        mixed = (1 - timestep / 1000) * clean[k : k + 1] + timestep / 1000 * noise
        losses.append((velocity(sampler, mixed, timestep, condition[k : k + 1]) - (noise - clean[k : k + 1])).square().mean())
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-3, atol=0)


def test_a_refiner_around_an_autoencoder_changes_nothing_at_first():
    vae = Refiner(RefinerConfig(output="residual")).model.backbone.vae
    vae.register_to_config(latents_mean=[0.3] * 8, latents_std=[2.0] * 8)
    clip = pair(frames=5, height=16, width=16).degraded
    refiner = refiner_around(vae, "artifact-removal", "residual")
    torch.testing.assert_close(refiner(clip), clip.frames, atol=1e-5, rtol=0)
    with torch.no_grad():
        z = refiner.model.encode(clip.frames[None])
        torch.testing.assert_close(z, (vae.encode(2 * clip.frames[None].transpose(1, 2) - 1).latent_dist.mode() - 0.3) / 2)
