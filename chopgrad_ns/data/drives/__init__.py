"""Recorded drives: readers of the formats that they come in, and what is computed from them."""
