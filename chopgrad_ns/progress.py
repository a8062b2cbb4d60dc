"""Progress of long work in plain lines: for logs, and for stages that share the terminal with others' output."""

import time
from collections.abc import Callable


class ProgressLines:
    """Callable `(step, steps, note)` that writes a line now and then: how far, how it goes, how fast, how long still.

    The pace is measured from the first call on, so that work taken up in the middle is told right; a step that is not
    beyond the last one begins anew. `note` is a function and is only called for a line that is written.
    """

    def __init__(self, label: str, write: Callable[[str], object] = print, seconds: float = 10.0,
                 now: Callable[[], float] = time.monotonic):
        """`seconds` lie between lines; the last step gets one too if there was one before."""
        self.label, self.write, self.seconds, self.now = label, write, seconds, now
        self._last_step: float = float("inf")

    def __call__(self, step: int, steps: int, note: Callable[[], str] | None = None) -> None:
        now, again = self.now(), step <= self._last_step
        self._last_step = step
        if again:
            self._first_step, self._began, self._written = step, now, now
            return
        ended = step >= steps and self._written > self._began
        if now - self._written < self.seconds and not ended:
            return
        self._written = now
        pace = (step - self._first_step) / max(now - self._began, 1e-9)
        told = [f"{step} of {steps} steps", *([note()] if note else []), f"{pace:.1f} steps/s"]
        if step < steps:
            told.append(f"{clock((steps - step) / pace)} left")
        self.write(f"{self.label}: {', '.join(told)}")


def clock(seconds: float) -> str:
    """Seconds as people read them.

    >>> clock(75), clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def of_parts(report: Callable[..., None], parts: int) -> Callable[..., None]:
    """`(name, step, steps, note)` of equally long parts, told one after the other, as `report`'s steps of the whole."""
    begun: list[str] = []

    def tell(name: str, step: int, steps: int, note: Callable[[], str] | None = None) -> None:
        if name not in begun:
            begun.append(name)
        told = (lambda: f"{name}, {note()}") if note else (lambda: name)
        report((len(begun) - 1) * steps + step, parts * steps, told)

    return tell
