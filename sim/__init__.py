"""Sample worlds, and the pairs made of them."""
