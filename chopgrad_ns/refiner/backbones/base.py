"""A latent video diffusion model as a single-step denoiser: what its families share.

A family is one file: it says which of diffusers' classes it takes, how latents are normalised, what one step gives,
and where the encoder's features are read. The weights keep the names and shapes that diffusers saves them under.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.chopgrad.adapters.base import in_this_thread

FINGERPRINT_VALUES = 64
"""Of each tensor, that go into a fingerprint one by one."""


class Backbone(nn.Module):
    """Autoencoder and transformer, under diffusers' names, as encoder and one-step denoiser.

    Latents z are normalised as the transformer takes them; `to_decoder` brings them into the decoder's own space.
    Clips have `frame_step`·k + 1 frames; other lengths do not come back from the decoder as long as they were.
    """

    family: str
    vae_class: type[nn.Module]
    transformer_class: type[nn.Module]
    default_timestep: int
    """0…999: the degraded clip's latent is taken for the noisy sample at this step, where nothing else is asked for"""
    temporal_factor: int
    """frames of a latent frame; the first latent frame is the first frame alone"""
    frame_step: int
    """a clip has this many frames times k, plus one"""
    latent_factor: int
    """pixels of a latent, in each direction"""
    spatial_factor: int
    """height and width of a clip are multiples of this: pixels of a token of the transformer"""
    prompt_shape: tuple[int, int]
    """tokens and width of a prompt's embedding; there may be fewer tokens"""
    feature_shapes: list[tuple[int, int, int]]
    """of the encoder's features, highest resolution first: channels, frames per step in time, pixels per step in space"""

    def __init__(self, vae: nn.Module, transformer: nn.Module, scheduler: dict):
        """`scheduler`: the arguments of the scheduler that the model was published with; {} where it has no say."""
        super().__init__()
        self.check(vae.config, transformer.config, scheduler)
        self.vae, self.transformer, self.scheduler_config = vae, transformer, scheduler
        self.register_module("condition_embed", None)

    @classmethod
    def build(cls, config: dict) -> Backbone:
        """Random weights; `config` is what the property of this name gives."""
        return cls(cls.vae_class(**config["vae"]), cls.transformer_class(**config["transformer"]), config["scheduler"])

    @classmethod
    @abstractmethod
    def check(cls, vae: Mapping, transformer: Mapping, scheduler: Mapping) -> None:
        """Refuse, by ValueError, what cannot be denoised in one step without more than a prompt; these are arguments."""

    @property
    def config(self) -> dict:
        """What `build` makes the same architecture of; JSON can hold it."""
        return {"family": self.family, "vae": arguments(self.vae_class, self.vae.config),
                "transformer": arguments(self.transformer_class, self.transformer.config),
                "scheduler": dict(self.scheduler_config)}

    def fingerprint(self) -> str:
        """A hash of the autoencoder's and the transformer's weights, as they are in bfloat16, whatever they are held in.

        Of each tensor there are name and shape, some values spread over it, and the sum of all bit patterns, four at a time:
        it wraps, and so is the same in any order.
        """
        found = hashlib.sha256()
        for part in ("vae", "transformer"):
            for name, value in sorted(getattr(self, part).state_dict().items()):
                bits = value.detach().flatten().to(torch.bfloat16, copy=True).view(torch.int16)
                fours = len(bits) // 4 * 4
                told = (bits[::max(1, len(bits) // FINGERPRINT_VALUES)].tolist(), bits[:fours].view(torch.int64).sum().item(),
                        bits[fours:].tolist())
                found.update(f"{part}.{name} {tuple(value.shape)} {told}".encode())
        return found.hexdigest()

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int, int]:
        """Latents of a token, in time, height and width."""

    def condition_on(self, channels: int) -> None:
        """Add a layer `condition_embed` from conditions to tokens, which are added to the patch embedding's.

        It starts at zero, so that at first a condition changes nothing, and has 32 bits, since it is there to be trained.
        """
        config = self.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        layer = nn.Conv3d(channels, width, self.patch_size, self.patch_size)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        self.condition_embed = layer.to(next(self.transformer.parameters()).device)

    def encode(self, frames: Float[Tensor, "b 3 t h w"], features: bool = False
               ) -> Float[Tensor, "b c tz hz wz"] | tuple[Tensor, list[Float[Tensor, "b c2 t2 h2 w2"]]]:
        """Latents z of frames in −1…1 (the posterior's mode); with `features` the encoder's features as well.

        Features are those of the last block at each resolution, highest first (`feature_shapes`). Of their steps in
        time the first is the first frame's; step s > 0 ends with frame s times the frames per step. An encoder that
        is not trained is run without a graph.

        Raises:
            ValueError: for a clip of another length or size than this backbone takes.
        """
        count, height, width = frames.shape[2:]
        if (count - 1) % self.frame_step or height % self.spatial_factor or width % self.spatial_factor:
            raise ValueError(f"a clip of {count} frames, {width} × {height}, cannot be encoded; frames are a multiple of "
                             f"{self.frame_step} plus one, width and height multiples of {self.spatial_factor}")
        trained = frames.requires_grad or any(p.requires_grad for p in self.encoder_parameters())
        modules = self._feature_modules() if features else []
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()), _outputs(modules) as outputs:
            z = self.vae.encode(frames.to(self.vae.dtype)).latent_dist.mode()
            z = self.from_decoder(z.to(frames.dtype))
            return (z, [torch.cat(parts, dim=2) for parts in outputs]) if features else z

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that encoding uses."""
        yield from self.vae.encoder.parameters()
        if getattr(self.vae, "quant_conv", None) is not None:
            yield from self.vae.quant_conv.parameters()

    @abstractmethod
    def _feature_modules(self) -> list[nn.Module]:
        """The last module of the encoder at each resolution, in order."""

    @abstractmethod
    def to_decoder(self, z: Float[Tensor, "b c tz hz wz"]) -> Float[Tensor, "b c tz hz wz"]:
        """Normalised latents in the decoder's own space, and in its dtype."""

    @abstractmethod
    def from_decoder(self, latents: Float[Tensor, "b c tz hz wz"]) -> Float[Tensor, "b c tz hz wz"]:
        """The inverse of `to_decoder`."""

    def denoise(self, z: Float[Tensor, "b c tz hz wz"], timestep: int, prompt: Float[Tensor, "b l d"],
                condition: Float[Tensor, "b c3 tz hz wz"] | None = None) -> Float[Tensor, "b c tz hz wz"]:
        """One step: the clean latents that the model sees in z, taken for the noisy sample at `timestep` (of 1000).

        Args:
            condition: features at the latents' resolution, of as many channels as `condition_on` was told.
        """
        if condition is None:
            return self._clean(z, self._output(z, timestep, prompt), timestep)
        if self.condition_embed is None:
            raise ValueError("this backbone takes no condition before condition_on(channels) was called")
        tokens = self.condition_embed(condition.to(self.condition_embed.weight.dtype))
        patch_embed = self._patch_embed()
        hook = in_this_thread(lambda _module, _inputs, output: self._with_tokens(output, tokens.to(output.dtype)))
        with _hooked([(patch_embed, hook)]):
            return self._clean(z, self._output(z, timestep, prompt), timestep)

    @abstractmethod
    def _patch_embed(self) -> nn.Module:
        """The transformer's module that makes tokens of latents."""

    @abstractmethod
    def _with_tokens(self, output: Tensor, tokens: Float[Tensor, "b d t h w"]) -> Tensor:
        """What that module puts out, with tokens added to the latents' tokens."""

    @abstractmethod
    def _output(self, z: Tensor, timestep: int, prompt: Tensor) -> Tensor:
        """What the transformer puts out, in the shape and dtype of z."""

    @abstractmethod
    def _clean(self, z: Tensor, output: Tensor, timestep: int) -> Tensor:
        """The clean sample by the model's own parametrisation."""


def arguments(cls: type, config: Mapping) -> dict:
    """A class's arguments in a diffusers config, as JSON gives them back. Published ones may hold what is none any more."""
    names = inspect.signature(cls.__init__).parameters
    return json.loads(json.dumps({name: value for name, value in config.items() if name in names}))


@contextlib.contextmanager
def _outputs(modules: list[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Within the context, the outputs of each module are put into a list of its own, call after call."""
    lists: list[list[Tensor]] = [[] for _ in modules]

    def note(outputs: list[Tensor]):
        # CogVideoX's blocks return their cache beside their features.
        return lambda _module, _inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)

    with _hooked([(module, in_this_thread(note(outputs))) for module, outputs in zip(modules, lists)]):
        yield lists


@contextlib.contextmanager
def _hooked(pairs: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
