"""What every measurement keeps, whatever it measures."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from gateway.bench.inputs import Inputs


class Measured(ABC):
    """A sweep or a comparison: it runs, and tells of each part when it has ended."""

    def __init__(self, inputs: Inputs, tell: Callable[[str], None]) -> None:
        self._inputs = inputs
        self._tell = tell
        self._place = 0
        """So many texts have been sent."""
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.answered = 0
        self.agrees = True
        """Whether all that should be equal was."""

    @abstractmethod
    async def run(self) -> None: ...

    def remark_repeated(self) -> None:
        if said := self._inputs.repeated(self._place):
            self.notes.append(said)
