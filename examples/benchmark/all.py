"""All benchmarks, one after the other: ``python examples/benchmark/all.py --out speed.csv`` (``--quick``: does it all run?).

Every option is handed on to each of them, so only those that all have: ``--rounds --seconds --device --threads --no-peers
--keep-memory --quick --out``. The peers are those that are installed: ``pip install "torchrl==0.14.*" "sheeprl==0.8.*"``. It
takes about half an hour on a quiet core.
"""

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("machine_limits", "world_model_step", "dream_step", "learn_in_dream", "data", "memory")


def main() -> None:
    """Run them; one that fails does not keep the others from running."""
    folder = Path(__file__).parent
    failed = []
    for name in SCRIPTS:
        print(f"--- {name}", flush=True)
        command = [sys.executable, str(folder / f"{name}.py"), *sys.argv[1:]]
        if subprocess.run(command).returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
