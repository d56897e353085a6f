"""How much waits: in each class of calls, and of each caller in it. Running sums, since each call asks."""

from gateway.core.fairness import CLASSES


class Waiting:
    """So many items, of so many tokens together."""

    __slots__ = ("items", "tokens")

    def __init__(self) -> None:
        self.items = 0
        self.tokens = 0


class InClass(Waiting):
    """What waits in one class."""

    __slots__ = ("accounts",)

    def __init__(self) -> None:
        super().__init__()
        self.accounts: dict[str, Account] = {}
        """Caller → his, of those who have something waiting."""


class Account(Waiting):
    """What waits of one caller in one class. What others have asked for already is theirs."""

    __slots__ = ("_caller", "_in_class")

    def __init__(self, caller: str, in_class: InClass) -> None:
        super().__init__()
        self._caller = caller
        self._in_class = in_class

    def add(self, items: int, tokens: int) -> None:
        in_class = self._in_class
        if not self.items:
            in_class.accounts[self._caller] = self
        self.items += items
        self.tokens += tokens
        in_class.items += items
        in_class.tokens += tokens

    def take(self, tokens: int) -> None:
        """One item waits no more."""
        in_class = self._in_class
        self.items -= 1
        self.tokens -= tokens
        in_class.items -= 1
        in_class.tokens -= tokens
        if not self.items:
            del in_class.accounts[self._caller]


class Backlog:
    """All that waits in one pool."""

    __slots__ = ("classes",)

    def __init__(self) -> None:
        self.classes = {name: InClass() for name in CLASSES}

    def account(self, call_class: str, caller: str) -> Account:
        """The caller's, for as long as nothing else is done: once nothing of his waits, it is another."""
        in_class = self.classes[call_class]
        return in_class.accounts.get(caller) or Account(caller, in_class)
