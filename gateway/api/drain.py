"""Whether the end of this process has been announced: set by the server, told by the routes."""


class Drain:
    def __init__(self) -> None:
        self.draining = False
        """Readiness fails and answers close their connections, while everything is still served."""
