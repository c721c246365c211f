"""What the README says runs: its Python blocks, in order, in one process."""

import re
import subprocess
import sys
from pathlib import Path

from starter_models import model_path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_blocks_run(device, tmp_path):
    model_path("smollm2")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "layer 3:" in done.stdout
