"""``episodes.csv``: every episode played, written as soon as it ends: a killed evaluation goes on where it was.

Several processes may evaluate one agent at the same time: each adds to what the others have written.
"""

import csv
import io
from pathlib import Path

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError
from dream_env.playing.games import EpisodeResult
from dream_env.run_folder import alone

HEAD = ("policy", "steps", "deterministic", "seed", "return", "length", "success", "tasks", "environment")
"""``steps``: dream steps that a snapshot's policy had learned from; −1 for the final agent and for random actions.
``success`` and ``tasks`` are empty where the environment does not say."""

Key = tuple[str, int, bool]


class GameLog:
    """The file as a dictionary."""

    def __init__(self, path: Path, *, environment: str = "") -> None:
        """Read what is there.

        Args:
            path: the file, which need not exist.
            environment: what is to be played, however one writes that; needed to add to the file. What the file says
                unless given.

        Raises:
            ConfigError: if the file holds games of another environment.
        """
        self.path = path
        self.environment = self._found = environment
        self.episodes: dict[Key, dict[int, EpisodeResult]] = {}
        self._read()
        self._found = self.environment

    def add(self, policy: str, steps: int, deterministic: bool, result: EpisodeResult) -> None:
        """Note an episode and write the file, with what others have added to it since.

        Raises:
            ConfigError: if that is of another environment.
        """
        with alone(self.path.parent):
            self._read()
            self.episodes.setdefault((policy, steps, deterministic), {})[result.seed] = result
            write_file(self.path, self._text())

    def played(self, policy: str, steps: int, deterministic: bool) -> dict[int, EpisodeResult]:
        """Seed to what was played so far."""
        return self.episodes.get((policy, steps, deterministic), {})

    def through_training(self) -> dict[int, list[float]]:
        """Dream steps to the returns of the policy of that time, sampled."""
        return {
            steps: [result.return_ for result in results.values()]
            for (_, steps, deterministic), results in sorted(self.episodes.items(), key=lambda item: item[0][1])
            if steps >= 0 and not deterministic
        }

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEAD)
        for key, results in self.episodes.items():
            for seed in sorted(results):
                game = results[seed]
                numbers = (f"{game.return_:.10g}", game.length, _cell(game.success), _cell(game.tasks))
                writer.writerow((*key, seed, *numbers, self.environment))
        return text.getvalue()

    def _read(self) -> None:
        """Take in what the file holds beside what is known."""
        if self.path.is_file():
            with self.path.open(newline="") as file:
                for line in csv.DictReader(file):
                    self._take(line)

    def _take(self, line: dict[str, str]) -> None:
        before = line.get("environment") or ""  # files of earlier versions do not say
        # What the file said at first passes too: whoever opened it may have found that another name is meant (``environment``).
        if before and self.environment and before not in (self.environment, self._found):
            raise ConfigError(
                f"{self.path} holds games of {before}, and now {self.environment} is to be played; results of the two must "
                f"not be mixed. Move the file away, or play the same"
            )
        self.environment = self.environment or before
        result = EpisodeResult(
            int(line["seed"]), float(line["return"]), int(line["length"]), _number(line.get("success")),
            _number(line.get("tasks")),
        )  # fmt: skip
        key = (line["policy"], int(line["steps"]), line["deterministic"] == "True")
        self.episodes.setdefault(key, {}).setdefault(result.seed, result)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(cell: str | None) -> float | None:
    return float(cell) if cell else None
