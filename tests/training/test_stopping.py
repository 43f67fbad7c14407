"""A signal asks once, and insists the second time; whoever handled it before hears of it when the work is put away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hf_datadiet.training.stopping import Stopped, requested, stop_if_requested, stoppable

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """The signals that the program's own handler has heard of. It hears again when the block has ended, and nothing is left over."""
    numbers: list[int] = []

    def hear(number: int, frame: Any) -> None:
        numbers.append(number)

    before = {number: signal.signal(number, hear) for number in NUMBERS}
    yield numbers
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == dict.fromkeys(NUMBERS, hear) and not requested()


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_is_a_request(number: int, heard: list[int]) -> None:
    with stoppable():
        stop_if_requested()
        assert not requested()
        signal.raise_signal(number)
        assert requested() and heard == []
        with pytest.raises(Stopped) as error:
            stop_if_requested()
        assert error.value.number == number and isinstance(error.value, KeyboardInterrupt)
    assert heard == [number]


def test_the_second_takes_effect_at_once(heard: list[int]) -> None:
    with stoppable():
        signal.raise_signal(signal.SIGINT)
        assert heard == []
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    assert heard == [signal.SIGTERM, signal.SIGINT]


def test_what_stops_goes_on_where_the_handler_returns(heard: list[int]) -> None:
    def work() -> None:
        with stoppable():
            signal.raise_signal(signal.SIGTERM)
            stop_if_requested()

    with pytest.raises(Stopped):
        work()
    assert heard == [signal.SIGTERM]


def test_ctrl_c_is_a_keyboard_interrupt() -> None:
    mine = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt) as error, stoppable():
        signal.raise_signal(signal.SIGINT)
    assert type(error.value) is KeyboardInterrupt
    signal.signal(signal.SIGINT, mine)


def test_work_that_was_finished_meanwhile_is_finished(heard: list[int]) -> None:
    saved = []
    with stoppable():
        signal.raise_signal(signal.SIGINT)
        saved.append("result")
    assert saved == ["result"] and heard == [signal.SIGINT]


def test_an_ignored_signal_stays_ignored() -> None:
    """As a shell does for a job in the background, and nohup."""
    mine = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable():
        signal.raise_signal(signal.SIGINT)
        assert not requested()
    assert signal.signal(signal.SIGINT, mine) == signal.SIG_IGN


def test_one_within_another(heard: list[int]) -> None:
    with stoppable():
        with stoppable():
            signal.raise_signal(signal.SIGINT)
        assert requested() and heard == []
    assert heard == [signal.SIGINT]


def test_other_threads_change_nothing(heard: list[int]) -> None:
    def work() -> None:
        with stoppable():
            inside.append(signal.getsignal(signal.SIGINT))

    inside: list[Any] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [signal.getsignal(signal.SIGINT)]
