"""The commands: the only place that prints.

Imported before torch by every script, so this is where its threads are told to sleep while they wait. By
default they spin, which makes each step two to ten times slower as soon as anything else (the processes that
load images, for one) needs a core.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
