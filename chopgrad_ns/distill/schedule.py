"""Which training step belongs to which stage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps of one run: reconstruction first, then `rounds` rounds of `round_steps` steps each.

    Before the first step of round r (1-based) the refined frames of that round are made; everything between the end of
    reconstruction and round 1 (pairs, fine-tuning) happens there too.
    """

    reconstruct_steps: int
    rounds: int
    round_steps: int

    @property
    def total_steps(self) -> int:
        return self.reconstruct_steps + self.rounds * self.round_steps

    def round_at(self, step: int) -> int:
        """0 during reconstruction, else the round (1…rounds) that `step` trains in."""
        if step < self.reconstruct_steps or self.round_steps == 0:
            return 0
        return min((step - self.reconstruct_steps) // self.round_steps + 1, self.rounds)
