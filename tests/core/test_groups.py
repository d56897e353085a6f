"""What is tried of groups, and what follows for a batch."""

from gateway.core.groups import Groups, Mode

CALLERS, WORK_S, BACK_S = 8, 0.02, 0.001


def divide(subject: Groups) -> None:
    """Have eight callers come back at once, time after time, until they are tried in two groups."""
    now = 0.0
    while subject.mode is not Mode.TWO and now < 60:
        now += WORK_S
        subject.on_answer(now, CALLERS, CALLERS, WORK_S)
        subject.on_call(now + BACK_S, CALLERS)


def test_half_of_all_is_half_of_those_who_are_there_by_now() -> None:
    """Who comes in a crowd beside them is not sent in parts of a few."""
    subject = Groups()

    divide(subject)

    assert subject.mode is Mode.TWO
    assert subject.items_max(CALLERS) == CALLERS // 2
    assert subject.items_max(CALLERS + 16) == (CALLERS + 16) // 2
