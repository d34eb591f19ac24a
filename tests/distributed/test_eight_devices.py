"""Runs eight_devices.py with eight simulated devices."""

import processes
import pytest


@pytest.mark.parametrize('chosen', ['not slow', pytest.param('slow', marks=pytest.mark.slow)])
def test_a_mesh_of_eight_devices_computes_what_one_device_does(chosen):
  command = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', chosen, str(processes.HERE / 'eight_devices.py')]
  with processes.started(command, devices=8) as (run,):
    assert run.ended(250) == 0, run.printed


@pytest.mark.slow
def test_every_family_on_eight_devices_computes_what_one_device_does():
  command = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(processes.HERE / 'family_meshes.py')]
  with processes.started(command, devices=8) as (run,):
    assert run.ended(500) == 0, run.printed
