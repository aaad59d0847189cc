"""Sharing work among plain threads."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from polyfield.parallel import ranges, run_tasks


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_task_is_done_once(threads, count):
    done = []
    run_tasks(done.append, [(i,) for i in range(count)])
    assert sorted(done) == list(range(count))


def test_as_many_threads_work_as_torch_has(threads):
    seen = set()
    barrier = threading.Barrier(threads, timeout=10)

    def work(_):
        seen.add(threading.get_ident())
        barrier.wait()

    run_tasks(work, [(i,) for i in range(threads)])
    assert len(seen) == threads


def test_what_a_task_raises_is_raised_after_the_others_have_ended():
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    ended = []

    def work(fail):
        if fail:
            raise ValueError("broken")
        time.sleep(0.05)
        ended.append(True)

    try:
        with pytest.raises(ValueError, match="broken"):
            run_tasks(work, [(False,), (True,)])
    finally:
        torch.set_num_threads(torch_threads)
    assert ended == [True]


def test_nothing_is_still_at_work_when_the_caller_has_failed():
    before, begun, ended = torch.get_num_threads(), threading.Event(), []
    torch.set_num_threads(2)

    def work(_):
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(10)
            raise ValueError("broken")
        begun.set()
        time.sleep(0.05)
        ended.append(True)

    try:
        with pytest.raises(ValueError, match="broken"):
            run_tasks(work, [(i,) for i in range(50)])
    finally:
        torch.set_num_threads(before)
    assert len(ended) == 1  # the task that was begun, and none after it


def test_two_callers_at_once_share_the_helpers():
    before, done = torch.get_num_threads(), [[], []]
    torch.set_num_threads(3)

    def call(mine):
        for _ in range(200):
            run_tasks(mine.append, [(i,) for i in range(5)])

    try:
        callers = [threading.Thread(target=call, args=(mine,)) for mine in done]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
    finally:
        torch.set_num_threads(before)
    assert [len(mine) for mine in done] == [1000, 1000]


def test_tasks_may_share_out_work_themselves(threads):
    done = []

    def outer(i):
        run_tasks(done.append, [((i, k),) for k in range(3)])

    run_tasks(outer, [(i,) for i in range(4)])
    assert len(done) == 12


@pytest.mark.parametrize("n", [0, 1, 5, 1000, 1001])
def test_ranges_make_up_the_whole_in_order(threads, n):
    pieces = ranges(n, smallest=100, largest=300)
    assert [i for piece in pieces for i in piece] == list(range(n))
    assert all(100 <= len(piece) <= 300 for piece in pieces[:-1])
