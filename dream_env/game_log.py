"""``episodes.csv``: every episode played, written as soon as it ends: a killed evaluation goes on where it was."""

import csv
import io
from pathlib import Path

from dream_env.checkpoint import write_file
from dream_env.games import EpisodeResult

HEAD = ("policy", "steps", "deterministic", "seed", "return", "length")
"""``steps``: dream steps that a snapshot's policy had learned from; −1 for the final agent and for random actions."""

Key = tuple[str, int, bool]


class GameLog:
    """The file as a dictionary."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.episodes: dict[Key, dict[int, EpisodeResult]] = {}
        if path.is_file():
            with path.open(newline="") as file:
                for line in csv.DictReader(file):
                    result = EpisodeResult(int(line["seed"]), float(line["return"]), int(line["length"]))
                    key = (line["policy"], int(line["steps"]), line["deterministic"] == "True")
                    self.episodes.setdefault(key, {})[result.seed] = result

    def add(self, policy: str, steps: int, deterministic: bool, result: EpisodeResult) -> None:
        """Note an episode and write the file."""
        self.episodes.setdefault((policy, steps, deterministic), {})[result.seed] = result
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEAD)
        for key, results in self.episodes.items():
            for seed in sorted(results):
                writer.writerow((*key, seed, f"{results[seed].return_:.10g}", results[seed].length))
        write_file(self.path, text.getvalue())

    def returns(self, policy: str, steps: int, deterministic: bool) -> dict[int, float]:
        """Seed to return of what was played so far."""
        return {seed: r.return_ for seed, r in self.episodes.get((policy, steps, deterministic), {}).items()}

    def through_training(self) -> dict[int, list[float]]:
        """Dream steps to the returns of the policy of that time, sampled."""
        return {
            steps: [result.return_ for result in results.values()]
            for (_, steps, deterministic), results in sorted(self.episodes.items(), key=lambda item: item[0][1])
            if steps >= 0 and not deterministic
        }
