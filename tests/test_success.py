"""Success as robot environments tell it, step by step."""

from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest

from dream_env.real.success import STEPS_OF_SUCCESS, SuccessTracker


class Named(gymnasium.Env[Any, Any]):
    def __init__(self, name: str) -> None:
        self.spec = SimpleNamespace(id=name)  # type: ignore[assignment]


def played(name: str, infos: list[dict[str, Any]]) -> SuccessTracker:
    tracker = SuccessTracker(Named(name))
    for info in infos:
        tracker.step(info)
    return tracker


@pytest.mark.parametrize(("good", "success"), [(0, 0.0), (STEPS_OF_SUCCESS, 0.0), (STEPS_OF_SUCCESS + 1, 1.0)])
def test_adroit_succeeds_with_more_than_25_good_steps_in_any_order(good: int, success: float) -> None:
    infos = [{"success": i % 2 == 1 and i < 2 * good} for i in range(200)]
    tracker = played("AdroitHandDoor-v1", infos)
    assert (tracker.success, tracker.tasks) == (success, None)


def test_kitchen_counts_tasks_and_succeeds_when_none_is_left() -> None:
    given = ["kettle", "microwave"]
    # The environment's own list is one object for the whole episode, emptied at the next reset.
    done: list[str] = []
    tracker = SuccessTracker(Named("FrankaKitchen-v1"))
    tracker.step({"tasks_to_complete": given, "step_task_completions": [], "episode_task_completions": done})
    assert (tracker.success, tracker.tasks) == (0.0, 0.0)
    done.append("kettle")
    tracker.step({"tasks_to_complete": given, "step_task_completions": ["kettle"], "episode_task_completions": done})
    assert (tracker.success, tracker.tasks) == (0.0, 1.0)
    done.append("microwave")
    tracker.step({"tasks_to_complete": given, "step_task_completions": [], "episode_task_completions": done})
    done.clear()
    assert (tracker.success, tracker.tasks) == (1.0, 2.0)


def test_kitchen_that_crosses_tasks_off_its_list_succeeds_too() -> None:
    left, done = ["kettle"], ["microwave"]
    assert played("FrankaKitchen-v1", [{"tasks_to_complete": left, "episode_task_completions": done}]).success == 0.0
    done = ["microwave", "kettle"]
    assert played("FrankaKitchen-v1", [{"tasks_to_complete": [], "episode_task_completions": done}]).success == 1.0


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_elsewhere_one_good_step_is_enough(key: str) -> None:
    assert played("Fetch-v4", [{key: 0.0}, {key: 1.0}, {key: 0.0}]).success == 1.0
    assert played("Fetch-v4", [{key: 0.0}]).success == 0.0


def test_nothing_is_known_where_nothing_is_said() -> None:
    tracker = played("ALE/Pong-v5", [{"lives": 0}])
    assert (tracker.success, tracker.tasks) == (None, None)


def test_reset_forgets() -> None:
    tracker = played("Fetch-v4", [{"is_success": True}])
    tracker.reset()
    assert tracker.success is None
    tracker.step({"is_success": False})
    assert tracker.success == 0.0
