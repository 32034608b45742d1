"""An environment's spaces, as the world model takes them: one door to observations, actions and their standard units.

``ObservationSpec.pack`` makes packed arrays of raw observations, ``Standardizer`` makes them what the networks see, and
``ActionSpec.encode`` makes vectors of raw actions. All three are stored with the model.
"""

from dream_env.spaces.actions import ActionSpec as ActionSpec
from dream_env.spaces.observations import ObservationConfig as ObservationConfig
from dream_env.spaces.observations import ObservationKey as ObservationKey
from dream_env.spaces.observations import ObservationSpec as ObservationSpec
from dream_env.spaces.standardizer import Standardizer as Standardizer
from dream_env.spaces.standardizer import Statistics as Statistics
