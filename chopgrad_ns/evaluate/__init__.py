"""What a result is judged by: metrics of frames, clips and sets of them, with masks, actors and intervals."""

from chopgrad_ns.evaluate.bootstrap import interval_of_mean, interval_of_series
from chopgrad_ns.evaluate.clips import METRICS, add_features, evaluate_clip, usable
from chopgrad_ns.evaluate.distributions import (FeatureSets, frechet_distance, i3d_features, inception_features,
                                                kernel_distance)
from chopgrad_ns.evaluate.metrics import evaluate_frames, psnr, ssim
from chopgrad_ns.evaluate.regions import Box, actor_boxes
from chopgrad_ns.evaluate.temporal import Motion, flicker, motion_of, warp_error

__all__ = ["METRICS", "Box", "FeatureSets", "Motion", "actor_boxes", "add_features", "evaluate_clip", "evaluate_frames",
           "flicker", "frechet_distance", "i3d_features", "inception_features", "interval_of_mean",
           "interval_of_series", "kernel_distance", "motion_of", "psnr", "ssim", "usable",
           "warp_error"]
