"""Where results go."""

from __future__ import annotations

from support.bad_inputs.bad import changed

OF_TRACKING = [
    changed(
        "a tracker that is no module:name",
        "{sample_log: true}",
        "{own: [my_trackers.printer]}",
        "x.yaml:17:18: tracking.own.0: 'my_trackers.printer'",
    ),
    changed(
        "a tracker that is not there",
        "{sample_log: true}",
        "{own: [nowhere:printer]}",
        "tracking.own: nowhere:printer: ModuleNotFoundError: No module named 'nowhere'",
    ),
]
