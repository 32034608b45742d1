"""One Dreamer-style ``.npz`` file, the format of DreamerV2's replay and of CMIL's demonstrations: read, and checked.

A file is an episode of T steps and has T + 1 rows. Row t holds what was seen at step t, and the action that *led there*::

    image                (T + 1, H, W, 1 or 3) uint8   o_0 … o_T
    action               (T + 1, A) float              0, a_0 … a_{T−1}; choices are one-hot
    reward               (T + 1,) float                0, r_0 … r_{T−1}
    discount             (T + 1,) float                0 on the last row if that ended the episode for good   } one of them,
    is_terminal          (T + 1,) bool                 true there                                             } or neither
    is_first, is_last    (T + 1,) bool                 may be there: true on the first and on the last row alone
    log_…, reward…       (T + 1, …)                    may be there: what reports showed; left out
    anything else        (T + 1, …)                    may be there: what else was seen, such as ``orientations``

Other libraries write (o_t, a_t) on one row (DreamerV3, for one). No file says which it is, but row 0 shows it, where nothing
led to; such files are refused, not guessed at. A file with neither ``discount`` nor ``is_terminal`` says nothing about its
end and counts as cut off, as CMIL reads all of its files.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dream_env.errors import DatasetError

PICTURES = "pixels"
"""What ``image`` is called in the dataset, as in environments with rendered pictures."""
_NAMES = {"image": PICTURES, "obs": "state"}
"""What keys are called in the dataset, where that differs: CMIL's Baoding files call the environment's state ``obs``."""
_NEEDED = ("image", "action", "reward")
_FLAGS = ("is_first", "is_last", "is_terminal", "discount", "action")
_REPORTS = ("log_", "log/", "reward", "success")
"""Keys that begin so were never observed; a model that sees a reward would be told what it is to find out."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class NpzEpisode:
    """One file of T steps, checked on its own."""

    path: Path
    observations: dict[str, np.ndarray]
    """(T + 1, …), uint8 pictures and float32 vectors, by their names in the dataset."""
    actions: np.ndarray
    """(T, A), row t taken after observation t."""
    rewards: np.ndarray
    """(T,)."""
    terminated: bool
    """Whether the last observation ended the episode for good."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What all files of a dataset must have in common."""
        return {"action": self.actions.shape[1:], **{name: x.shape[1:] for name, x in self.observations.items()}}


def read_npz(path: Path) -> NpzEpisode:
    """Read one file and check all that can be checked without another.

    Raises:
        DatasetError: naming the file, the key, and the row if there is one.
    """
    arrays = _load(path)
    for name in _NEEDED:
        if name not in arrays:
            raise wrong(path, f"it has no {name!r}, only {', '.join(sorted(arrays))}")
    rows = len(arrays["action"]) if arrays["action"].ndim else 0
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != rows:
            raise wrong(path, f"{name!r} is of shape {array.shape}, 'action' of {arrays['action'].shape}: rows differ")
        if array.dtype.kind not in "fiub":
            raise wrong(path, f"{name!r} holds {array.dtype}, no numbers")
        if array.dtype.kind == "f" and not (finite := np.abs(array) <= _LARGEST).all():  # false for NaN
            row = int(np.argwhere(~finite)[0][0])
            raise wrong(path, f"{name!r} is not finite, as float32, in row {row}: {array[row]}")
    if rows < 2:
        raise wrong(path, f"it has {rows} rows; one step makes two")
    image, action, reward = (arrays[name] for name in _NEEDED)
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] not in (1, 3):
        raise wrong(path, f"'image' is {image.dtype} of shape {image.shape}; expected uint8 (T + 1, H, W, 1 or 3)")
    if action.ndim != 2 or reward.ndim != 1:
        raise wrong(
            path,
            f"'action' and 'reward' are of shapes {action.shape} and {reward.shape}; expected (T + 1, A), (T + 1,)",
        )
    _check_order(path, arrays)
    seen = [name for name in arrays if name not in _FLAGS and not name.startswith(_REPORTS)]
    return NpzEpisode(
        path, {_NAMES.get(name, name): _observation(arrays[name]) for name in seen}, action[1:], reward[1:],
        _terminated(path, arrays),
    )  # fmt: skip


def wrong(path: Path, what: str) -> DatasetError:
    """The error to raise when something about a file cannot be."""
    return DatasetError(f"{path}: {what}. Mend the file or move it away; nothing of it was recorded")


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)  # unpickling would run code of whoever made the file
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise wrong(path, f"it cannot be read ({error or type(error).__name__})") from error


def _observation(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4 and array.dtype == np.uint8:
        return array
    return array.reshape(len(array), *(array.shape[1:] or (1,))).astype(np.float32)


def _check_order(path: Path, arrays: dict[str, np.ndarray]) -> None:
    for name in ("action", "reward"):
        if arrays[name][0].any():
            raise wrong(
                path,
                f"row 0 holds the {name} {arrays[name][0]}, expected 0: in DreamerV2's order a row holds the action that led "
                f"to it and its reward, and nothing led to row 0. If this file has the action *taken* in a row on it, put "
                f"actions and rewards one row later",
            )
    last = len(arrays["action"]) - 1
    if "is_first" in arrays and not arrays["is_first"][0]:
        raise wrong(path, "'is_first' is false in row 0; a file must be one episode, from its reset on")
    for name, allowed in (("is_first", 0), ("is_last", last), ("is_terminal", last)):
        rows = np.flatnonzero(arrays.get(name, np.zeros(0)))
        if (rows != allowed).any():
            row = int(rows[rows != allowed][0])
            raise wrong(
                path, f"{name!r} is true in row {row} of 0 … {last}; a file must be one episode, from its reset on"
            )
    ended = np.flatnonzero(arrays["discount"] == 0) if "discount" in arrays else np.zeros(0)
    if (ended != last).any():
        raise wrong(path, f"'discount' is 0 in row {int(ended[0])} of 0 … {last}, but the episode goes on")


def _terminated(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    said = {name: bool(arrays[name][-1]) for name in ("is_terminal",) if name in arrays}
    if "discount" in arrays:
        said["discount"] = bool(arrays["discount"][-1] == 0)
    if len(set(said.values())) > 1:
        raise wrong(
            path,
            f"its last row has is_terminal {arrays['is_terminal'][-1]} and discount {arrays['discount'][-1]}: is it over?",
        )
    return any(said.values())
