"""Clips and pairs, sparse views, camera paths, warped references."""
