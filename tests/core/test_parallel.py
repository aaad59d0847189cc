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
