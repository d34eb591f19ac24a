import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class FreshBuild(build_py):
  """Builds into an empty folder: files that a newer version has removed are not taken from an older build."""

  def run(self) -> None:
    if not self.editable_mode:
      shutil.rmtree(self.build_lib, ignore_errors=True)
    super().run()


setup(cmdclass={'build_py': FreshBuild})
