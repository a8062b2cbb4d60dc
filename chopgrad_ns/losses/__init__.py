"""Per-frame and temporal losses for `pixel_loss`, and their weighted sum."""

from chopgrad_ns.losses.flow import warped_flicker, with_flow
from chopgrad_ns.losses.frames import charbonnier, frame_difference, l1, ms_ssim_loss, mse, robust_l1, ssim_loss
from chopgrad_ns.losses.perceptual import lpips, lpips_loss, perceptual, perceptual_loss, st_lpips
from chopgrad_ns.losses.textures import dists, dists_loss, vgg_gram, vgg_gram_loss
from chopgrad_ns.losses.weighted import LOSSES, Weight, Weighted, parse_losses

__all__ = ["LOSSES", "Weight", "Weighted", "charbonnier", "dists", "dists_loss", "frame_difference", "l1", "lpips", "lpips_loss",
           "ms_ssim_loss", "mse", "parse_losses", "perceptual", "perceptual_loss", "robust_l1", "ssim_loss", "st_lpips",
           "vgg_gram", "vgg_gram_loss", "warped_flicker", "with_flow"]
