"""The notebooks hold the results of their cells; the slow tests execute them again."""

import json
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_results_without_errors_and_paths_of_a_machine(path):
  book = json.loads(path.read_text())
  assert 'two CPU cores' in ''.join(book['cells'][0]['source'])
  outputs = [output for cell in book['cells'] for output in cell.get('outputs', [])]
  assert outputs and all(output['output_type'] != 'error' for output in outputs)
  assert not [word for word in ('/tmp/', '/home/', '/root/', '/work/') if word in path.read_text()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel')
  (tmp_path / 'prompt_tuning').symlink_to(ROOT / 'prompt_tuning')
  folder = tmp_path / 'notebooks'
  folder.mkdir()
  if 'SMOLLM2' in path.read_text():
    if not os.environ.get('SMOLLM2'):
      pytest.skip('The variable SMOLLM2 does not name the folder of SmolLM2-135M-Instruct.')
    if 'vaderSentiment' in path.read_text():
      archive = ROOT / 'notebooks/vaderSentiment-3.3.2.tar.gz'
      if not archive.exists():
        pytest.skip(f'{archive} is not there; the notebook says how to get it.')
      (folder / archive.name).symlink_to(archive)
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  nbclient.NotebookClient(nbformat.read(path, as_version=4), timeout=1500,
                          resources={'metadata': {'path': str(folder)}}).execute()
