"""Functions of others: each has a thread and a deadline, and what it does costs nothing but itself."""

from __future__ import annotations

import threading

import pytest
from support.waiting import wait_until

from hearthnet.observability import callback as module
from hearthnet.observability.callback import Callback, call_all


@pytest.fixture
def gate():
    """An event that functions wait for; set at the end, so that no thread is left."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Functions that hang are not waited for as long as in a program."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.1)


def test_results_are_those_of_the_last_call():
    """Each call has its own result."""
    numbers = iter([1, 2])
    made = Callback(lambda: next(numbers))
    for expected in (1, 2):
        call_all([made])
        assert made.result() == expected
    call_all([made])
    with pytest.raises(StopIteration):
        made.result()


def test_function_that_was_never_called_has_no_result():
    """There is no value to show yet."""
    with pytest.raises(LookupError):
        Callback(lambda: 1).result()


@pytest.mark.parametrize("error", [OSError("gone"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_function_that_raises_costs_no_other(error):
    """Whatever it raises is its own failure, and an ordinary one, which ends no thread that asks for it."""

    def raising():
        raise error

    first, second = Callback(raising), Callback(lambda: 2)
    call_all([first, second])

    with pytest.raises(Exception, match=str(error) if isinstance(error, OSError) else type(error).__name__):
        first.result()
    assert second.result() == 2


def test_function_that_hangs_is_not_called_again_before_it_returns(gate):
    """One thread at most hangs for it; once it has returned it is called as before."""
    calls = []

    def hanging():
        calls.append(1)
        gate.wait()
        return len(calls)

    made, other = Callback(hanging), Callback(lambda: 2)
    for _ in range(3):
        call_all([made, other])
        with pytest.raises(TimeoutError):
            made.result()
        assert other.result() == 2
    assert len(calls) == 1

    gate.set()
    wait_until(lambda: not made._thread.is_alive())
    call_all([made])
    assert made.result() == 2


def test_functions_that_hang_do_not_add_up(monkeypatch):
    """Beyond the time of all together none is begun, and each keeps what it had; the next scrape calls them."""
    numbers = iter([1, 2])
    made = Callback(lambda: next(numbers))
    call_all([made])
    with monkeypatch.context() as patch:
        patch.setattr(module, "ALL_S", 0.0)
        call_all([made])
        assert made.result() == 1
    call_all([made])
    assert made.result() == 2


def test_two_scrapes_at_once_share_one_call(gate, monkeypatch):
    """None misses what a function gives that takes its time."""
    monkeypatch.setattr(module, "DEADLINE_S", 30)
    began = threading.Event()

    def slow():
        began.set()
        gate.wait()
        return 7

    made, found = Callback(slow), []

    def scrape():
        call_all([made])
        found.append(made.result())

    threads = [threading.Thread(target=scrape, daemon=True) for _ in range(3)]
    threads[0].start()
    assert began.wait(30)
    for thread in threads[1:]:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(30)

    assert found == [7] * 3


def test_no_more_threads_is_a_failure_of_the_call(monkeypatch):
    """A process that may start no thread still has a page."""

    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made = Callback(lambda: 1)
    call_all([made])

    with pytest.raises(RuntimeError, match="thread"):
        made.result()


def test_function_runs_in_a_thread_that_does_not_keep_the_process(gate):
    """A function that hangs for ever ends with the program."""
    made = Callback(lambda: threading.current_thread().daemon)
    call_all([made])

    assert made.result() is True
