import numpy as np

from ralb_extproc.place import PodSample
from ralb_extproc.place.signs import CAP, ENDED, PREEMPTIONS, ROWS, STUCK, read


class Pod:
    def __init__(self):
        self.state = np.zeros((ROWS, 1))
        self.state[PREEMPTIONS] = -1.0
        self.now = 100.0

    def says(self, waiting=0.0, running=4.0, ended=0, times=1, **fields):
        changed = False
        for _ in range(times):
            self.now += 0.5
            self.state[ENDED, 0] += ended
            changed |= read(self.state, 0, 0, PodSample(self.now, waiting, running, **fields), self.now)
        return changed

    @property
    def stuck(self):
        return bool(self.state[STUCK, 0])

    @property
    def cap(self):
        return float(self.state[CAP, 0])


def test_a_page_that_stays_while_requests_end_is_stuck_until_it_moves():
    pod = Pod()
    assert not pod.says(generation_tokens=10.0)
    assert pod.says(generation_tokens=10.0, ended=1, times=8)
    assert pod.stuck
    assert pod.says(generation_tokens=11.0)
    assert not pod.stuck


def test_an_idle_pod_is_not_stuck():
    pod = Pod()
    pod.says(generation_tokens=10.0, times=1000)
    assert not pod.stuck


def test_a_page_that_moves_is_not_stuck():
    pod = Pod()
    for tokens in range(50):
        pod.says(generation_tokens=float(tokens), ended=3)
    assert not pod.stuck


def test_no_queue_no_cap():
    pod = Pod()
    pod.says(running=500.0, kv_usage=0.9, times=100)
    assert pod.cap == 0


def test_a_moment_of_queue_is_no_sign():
    pod = Pod()
    for _ in range(50):
        pod.says(waiting=3.0)
        pod.says(waiting=0.0)
    assert pod.cap == 0


def test_a_queue_that_lasts_caps_at_half_as_much_again():
    pod = Pod()
    pod.says(waiting=3.0, running=10.0, times=6)
    assert pod.cap == 15


def test_memory_that_is_full_caps_below_what_runs_and_goes_on_cutting():
    pod = Pod()
    pod.says(waiting=1.0, running=20.0, kv_usage=0.97)
    assert pod.cap == 18
    pod.says(waiting=1.0, running=18.0, kv_usage=0.97, times=3)
    assert pod.cap == 18
    pod.says(waiting=1.0, running=18.0, kv_usage=0.97, times=2)
    assert 16 < pod.cap < 17


def test_a_preemption_caps_too():
    pod = Pod()
    pod.says(running=20.0, preemptions=7.0)
    assert pod.cap == 0, "what was before we looked says nothing"
    pod.says(running=20.0, preemptions=8.0)
    assert pod.cap == 18


def test_a_cap_grows_again_and_is_forgotten():
    pod = Pod()
    pod.says(waiting=1.0, running=20.0, kv_usage=0.97)
    caps = []
    for _ in range(100):
        pod.says(running=18.0, kv_usage=0.5)
        caps.append(pod.cap)
    assert caps == sorted(caps)
    assert caps[20] > 25
    pod.says(running=18.0, kv_usage=0.5, times=40)
    assert pod.cap == 0


def test_a_cap_is_at_least_one():
    pod = Pod()
    for _ in range(100):
        pod.says(waiting=1.0, running=0.0, kv_usage=1.0, times=5)
    assert pod.cap == 1
