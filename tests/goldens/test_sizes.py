"""The size of a clone."""

import golden_models


def test_all_golden_files_together_stay_below_three_megabytes():
  sizes = [path.stat().st_size for folder in (golden_models.OWN, golden_models.FAMILIES) for path in folder.rglob('*')
           if path.is_file()]
  assert len(sizes) > 50 and sum(sizes) < 3e6
