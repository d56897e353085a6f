from gateway.embedded.restarts import Restarts, SupervisionSettings


def test_the_wait_doubles_up_to_its_limit() -> None:
    """A server that keeps ending is started less and less often, but always again."""
    restarts = Restarts(SupervisionSettings())
    restarts.opened()

    waits = [restarts.ended(lived_s=5) for _ in range(7)]

    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_a_minute_of_life_resets_the_wait() -> None:
    """What ends a server that ran well is a new matter."""
    restarts = Restarts(SupervisionSettings())
    restarts.opened()
    for _ in range(4):
        restarts.ended(lived_s=5)

    assert restarts.ended(lived_s=60) == 1
    assert restarts.ended(lived_s=5) == 2


def test_three_failed_starts_are_enough() -> None:
    """A server that ends three times before it opened its port is given up."""
    restarts = Restarts(SupervisionSettings())

    assert [restarts.ended(lived_s=59) for _ in range(3)] == [1, 2, None]


def test_a_server_that_once_worked_is_never_given_up() -> None:
    """An open port proves the set-up; what comes later may pass."""
    restarts = Restarts(SupervisionSettings())
    restarts.ended(lived_s=5)
    restarts.ended(lived_s=5)
    restarts.opened()

    assert all(restarts.ended(lived_s=5) is not None for _ in range(10))


def test_a_start_that_takes_long_is_not_a_failed_one() -> None:
    """A download that breaks off after minutes goes on where it was at the next start."""
    restarts = Restarts(SupervisionSettings())
    restarts.ended(lived_s=5)
    restarts.ended(lived_s=5)

    assert restarts.ended(lived_s=300) == 1
    assert [restarts.ended(lived_s=5) for _ in range(3)] == [2, 4, None]
