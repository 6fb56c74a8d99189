"""Bad inputs as lists: what a user writes, what stands in the message, and how the command is called.

Each is tried in a folder of its own, which has recipe.yaml, network.py, data (30 training samples, 3 classes, 3 shards)
and images (tests/launcher/test_bad_inputs.py).
"""

from __future__ import annotations

from support.bad_inputs.datasets import OF_DATA
from support.bad_inputs.environment import OF_THE_ENVIRONMENT
from support.bad_inputs.from_timm import OF_TIMM
from support.bad_inputs.paths import OF_PATHS
from support.bad_inputs.shards import OF_SHARDS
from support.bad_inputs.stages import OF_STAGES
from support.bad_inputs.texts import OF_TEXTS
from support.bad_inputs.trackers import OF_TRACKING
from support.bad_inputs.yaml_files import OF_YAML

ALL = (*OF_YAML, *OF_TEXTS, *OF_PATHS, *OF_SHARDS, *OF_DATA, *OF_STAGES, *OF_TIMM, *OF_THE_ENVIRONMENT, *OF_TRACKING)
