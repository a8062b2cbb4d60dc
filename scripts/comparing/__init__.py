"""What `scripts/compare.py` compares, and how each method is trained."""
