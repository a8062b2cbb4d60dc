"""The blending head, beside loops over pixels in float64."""

import pytest
import torch

from chopgrad_ns.refiner.decoder import FIRST_WEIGHT, BlendHead


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
    delta = layers.delta(x)
    base = {"correct": frames, "decode": decoded[:, :3] / 2 + 0.5}.get(layers.output)
    base = frames + (decoded - before)[:, :3] / 2 if base is None else base
    delta = delta + decoded[:, :3] if layers.output == "correct" else delta
    weights = [torch.tanh(layers.weight(silu(layers.photo(torch.cat([x, residuals[:, k], masks[:, k]], dim=1)))))
               for k in range(references)]
    out = torch.zeros_like(frames)
    for n in range(count):
        for row in range(height):
            for column in range(width):
                moved, total = 0, 0
                for k in range(references):
                    weight, mask = weights[k][n, 0, row, column], masks[n, k, 0, row, column]
                    moved = moved + weight * residuals[n, k, :, row, column]
                    total = total + float((weight.abs() * mask).detach())
                learned = 0.5 * torch.tanh(delta[n, :, row, column]) + moved / max(total, 1)
                here = frames[n, :, row, column]
                change = base[n, :, row, column] - here + alpha[n, 0, row, column] * learned
                out[n, :, row, column] = here + gate[n, 0, row, column] * change
    return out


@pytest.mark.parametrize("references, output", [(0, "correct"), (1, "correct"), (3, "correct"), (1, "decode"), (1, "residual")])
def test_head_is_what_its_formula_says(references, output):
    layers, given = head(output), inputs(references)
    given["before"] = given["decoded"].flip(0) if output == "residual" else None
    torch.testing.assert_close(layers(**given), oracle(layers, **given), atol=1e-12, rtol=0)


def test_before_training_photos_are_blended_in_where_there_is_no_base():
    given = inputs(2)
    given |= {"decoded": torch.zeros_like(given["decoded"]), "before": torch.zeros_like(given["decoded"])}
    blended = given["frames"] + FIRST_WEIGHT * given["gate"] * given["alpha"] * given["residuals"].sum(dim=1)
    torch.testing.assert_close(BlendHead(8, 4, "correct").double()(**given), blended, atol=1e-7, rtol=0)
    torch.testing.assert_close(BlendHead(8, 4, "residual").double()(**given), given["frames"])
