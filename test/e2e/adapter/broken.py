"""An adapter whose import fails, at a place that the status must name."""

import module_that_does_not_exist  # noqa: F401


class App:
    """Never reached."""
