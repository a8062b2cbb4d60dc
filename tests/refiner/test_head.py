"""The blending head, beside loops over pixels in float64."""

import pytest
import torch

from chopgrad_ns.refiner.decoder import TAPS, BlendHead


def inputs(references: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(references)
    draw = lambda *shape: torch.rand(2, *shape, 5, 6, generator=generator, dtype=torch.float64)  # noqa: E731
    masks = draw(references, 1)
    frames = draw(3)
    return {"decoded": draw(8) - 0.5, "before": None, "features": draw(4), "frames": frames, "gate": draw(1), "alpha": draw(1),
            "residuals": masks * (draw(references, 3) - frames[:, None]), "masks": masks}


def head(output: str = "correct") -> BlendHead:
    torch.manual_seed(0)
    made = BlendHead(8, 4, output).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def oracle(layers: BlendHead, decoded, before, features, frames, gate, alpha, residuals, masks):
    """The formula of the head's docstring, pixel by pixel."""
    silu, (count, references, _, height, width) = torch.nn.functional.silu, residuals.shape
    x = silu(layers.mix(torch.cat([decoded, features], dim=1)))
    delta, own = layers.delta(x), torch.tanh(layers.own(x))
    base = {"correct": frames, "decode": decoded[:, :3] / 2 + 0.5}.get(layers.output)
    base = frames + (decoded - before)[:, :3] / 2 if base is None else base
    delta = delta + decoded[:, :3] if layers.output == "correct" else delta
    weights = [torch.tanh(layers.weight(silu(layers.photo(torch.cat([x, residuals[:, k], masks[:, k]], dim=1)))))
               for k in range(references)]
    out = torch.zeros_like(frames)

    def at(picture, n, row, column):
        inside = 0 <= row < height and 0 <= column < width
        return picture[n, :, row, column] if inside else torch.zeros_like(picture[n, :, 0, 0])

    for n in range(count):
        for row in range(height):
            for column in range(width):
                here, filtered, total = frames[n, :, row, column], 0, 0
                for tap, (dy, dx) in enumerate(TAPS):
                    weight, there = own[n, tap, row, column], (row + dy, column + dx)
                    inside = 0 <= there[0] < height and 0 <= there[1] < width
                    filtered = filtered + weight * (at(frames, n, *there) - here * inside)
                    total = total + abs(weight.item()) * inside
                change, total = filtered / max(total, 1), 0
                filtered = 0
                for k in range(references):
                    for tap, (dy, dx) in enumerate(TAPS):
                        weight, mask = weights[k][n, tap, row, column], at(masks[:, k], n, row + dy, column + dx)
                        warped = at(residuals[:, k] + masks[:, k] * frames, n, row + dy, column + dx)
                        filtered, total = filtered + weight * (warped - mask * here), total + abs(weight.item()) * mask.item()
                learned = 0.5 * torch.tanh(delta[n, :, row, column]) + change
                learned = learned + (filtered / max(total, 1) if references else 0)
                change = base[n, :, row, column] - here + alpha[n, 0, row, column] * learned
                out[n, :, row, column] = here + gate[n, 0, row, column] * change
    return out


@pytest.mark.parametrize("references, output", [(0, "correct"), (1, "correct"), (3, "correct"), (1, "decode"), (1, "residual")])
def test_head_is_what_its_formula_says(references, output):
    layers, given = head(output), inputs(references)
    given["before"] = given["decoded"].flip(0) if output == "residual" else None
    torch.testing.assert_close(layers(**given), oracle(layers, **given), atol=1e-12, rtol=0)


def test_head_moves_a_photo_by_a_pixel():
    """What a photo warped by a wrong depth needs: with the weight on one neighbour the picture comes out moved."""
    layers, given = head(), inputs(1)
    for layer in (layers.delta, layers.own, layers.weight):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layers.weight.bias[TAPS.index((0, 1))] = 20.0
    given |= {"decoded": torch.zeros_like(given["decoded"]), "gate": torch.ones_like(given["gate"]),
              "alpha": torch.ones_like(given["alpha"]), "masks": torch.ones_like(given["masks"])}
    moved = layers(**given)
    warped = given["residuals"][:, 0] + given["frames"]
    torch.testing.assert_close(moved[..., :-1], warped[..., 1:], atol=1e-9, rtol=0)
    torch.testing.assert_close(moved[..., -1], given["frames"][..., -1], atol=1e-9, rtol=0)  # nothing beyond the border


def test_head_gives_its_input_before_training():
    torch.manual_seed(0)
    given = inputs(2)
    given["decoded"] = torch.zeros_like(given["decoded"])  # as the decoder starts
    torch.testing.assert_close(BlendHead(8, 4, "correct").double()(**given), given["frames"])
