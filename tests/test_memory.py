"""The most memory that was in use."""

import jax
import numpy as np
import pytest

from prompt_tuning.devices import memory


def test_a_process_holds_at_least_what_it_has_allocated():
  before = memory.peak()['peak_process_bytes']
  held = np.ones(int(before) // 8 + 10**6)  # more than all that was in use before
  assert memory.peak()['peak_process_bytes'] >= before / 2 + held.nbytes


@pytest.mark.parametrize(('stats', 'expected'), [
  ([{'peak_bytes_in_use': 5}, {'peak_bytes_in_use': 7}, {}], {'peak_device_bytes': 7.0}), ([None], None)])
def test_the_fullest_device_counts_where_devices_do(monkeypatch, stats, expected):
  devices = [type('Device', (), {'memory_stats': lambda self, own=own: own})() for own in stats]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  found = memory.peak()
  assert found == expected or (expected is None and [*found] == ['peak_process_bytes'])
  assert memory.words({'loss': 1.0, 'peak_device_bytes': 1.5e9}) == '1.50 GB' and memory.words({}) == ''
