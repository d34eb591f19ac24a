"""The queue of an engine, used by several threads."""

import sys
import threading

from prompt_tuning.serving.waiting import Waiting


def test_the_queue_is_counted_while_other_threads_change_it():
  waiting, ended, counts = Waiting(10**6), threading.Event(), []

  def put() -> None:
    number = 0
    while not ended.is_set():
      number += 1
      waiting.put(number % 50, number)
      waiting.take(lambda _: True)

  interval, thread = sys.getswitchinterval(), threading.Thread(target=put)
  sys.setswitchinterval(1e-6)
  try:
    for key in range(50):
      waiting.put(key, key)
    thread.start()
    counts = [(len(waiting), len(list(waiting))) for _ in range(3000)]
  finally:
    ended.set()
    thread.join()
    sys.setswitchinterval(interval)
  assert all(49 < count < 52 for both in counts for count in both)
